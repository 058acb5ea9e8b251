-- What every script begins with: the clock (Redis' own, so that replicas need not agree on one) and the names of keys.
-- The keys are made here from arguments: all of the gateway's state lies on one primary.
local P = 'hookline:llm:'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local today = math.floor(clock[1] / 86400)
local function num(value) return tonumber(value) or 0 end

-- Year * 12 + month of a day since 1970 (https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local mp = math.floor((5 * (doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))) + 2) / 153)
  local m = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (m <= 2 and 1 or 0)) * 12 + m - 1
end
local month = month_of(today)
local function seconds_to_month()
  local day = today + 1
  while month_of(day) == month do day = day + 1 end
  return (day - today) * 86400 - clock[1] % 86400
end
