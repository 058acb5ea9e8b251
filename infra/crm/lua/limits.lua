-- How many calls to a CRM an account's processes may make now, for all of them together.
--
-- A turn is occupied from its grant until `window` after its answer. A call reaches the vendor between the two, so that
-- never more than `limit` calls fall into any window of the vendor's, however long a call was on its way.
-- Keys are made from arguments: they lie on one primary. The clock is Redis' own.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local today = math.floor(clock[1] / 86400)
local function num(value) return tonumber(value) or 0 end

local P = 'hookline:crm:' .. ARGV[2]
local H, TURNS, BULK, LINE, FRESH = P, P .. ':turns', P .. ':bulk', P .. ':line', P .. ':fresh'
-- Some of the window may go at once after quiet; the rest is paced, so that nobody stands for a whole window.
local BURST = 0.25
-- Bulk work leaves this part of the window to live work that was seen within the last one. What live work took of it is not left
-- over again: together they use all.
local LIVE_PART = 0.2
-- That only the share of others is left of the day is believed for so long, then calls find out how it stands; that nothing
-- is left, for a shorter time, for then a call costs nothing.
local BELIEVED_MS, SPENT_MS = 300000, 10000
-- Whose records are set aside for a spent day need not ask sooner.
local RETRY_MS = 1800000
-- A limit of which the vendor has not spoken for so long is no longer known.
local KNOWN_MS = 600000
-- Who did not come back in time has left the line.
local LATE_MS = 500

local function kept()
  for _, key in ipairs({H, TURNS, BULK, LINE, FRESH}) do redis.call('EXPIRE', key, 172800) end
end

if ARGV[1] == 'leave' then
  -- account, window, limit ('' unknown), left (''), day limit (''), day used (''), hold ms, limit until told, window until
  -- told, turns...
  local f = redis.call('HMGET', H, 'window', 'limit')
  if ARGV[4] ~= '' then redis.call('HSET', H, 'ha', now) end
  local window = tonumber(ARGV[3]) or tonumber(f[1]) or num(ARGV[10])
  local limit = tonumber(ARGV[4]) or tonumber(f[2]) or num(ARGV[9])
  if ARGV[3] ~= '' then redis.call('HSET', H, 'window', ARGV[3]) end
  if ARGV[4] ~= '' then redis.call('HSET', H, 'limit', ARGV[4]) end
  for i = 11, #ARGV do
    -- The names of bulk work's turns end so.
    for _, set in ipairs(string.sub(ARGV[i], -2) == ':b' and {TURNS, BULK} or {TURNS}) do
      if limit > 0 and window > 0 then redis.call('ZADD', set, now + window, ARGV[i]) else redis.call('ZREM', set, ARGV[i]) end
    end
  end
  if ARGV[5] ~= '' and limit > 0 then
    redis.call('ZREMRANGEBYSCORE', TURNS, '-inf', now)
    -- The vendor counts more than we do: somebody else uses the same app.
    local others = math.max(0, limit - num(ARGV[5]) - redis.call('ZCARD', TURNS))
    redis.call('HSET', H, 'others', others, 'others_until', now + window)
  end
  if ARGV[6] ~= '' then redis.call('HSET', H, 'dl', ARGV[6], 'du', ARGV[7], 'da', now) end
  if num(ARGV[8]) > 0 then
    local hold = math.max(num(redis.call('HGET', H, 'hold')), now + num(ARGV[8]))
    redis.call('HSET', H, 'hold', hold)
    redis.call('HINCRBY', H, 'held:' .. today, 1)
  end
  kept()
  return 0
end

-- enter: account, process, lane (0 live, 1 bulk), wanted, waited ms, limit until told, window until told, lease ms,
-- free share live, free share bulk, calls a day of our own (0: no limit), first turn's number
local me, bulk, wanted = ARGV[3] .. ':' .. ARGV[4], ARGV[4] == '1', num(ARGV[5])
local f = redis.call('HMGET', H, 'limit', 'window', 'hold', 'dl', 'du', 'da', 'day', 'own', 'lb', 'la', 'others', 'others_until', 'live', 'ha')
if f[14] and now - num(f[14]) > KNOWN_MS then
  redis.call('HDEL', H, 'limit', 'window', 'ha')
  f[1], f[2] = false, false
end
local limit = tonumber(f[1]) or num(ARGV[7])
local window = tonumber(f[2]) or num(ARGV[8])
local own = num(f[7]) == today and num(f[8]) or 0
local used = num(f[5])
local share = bulk and num(ARGV[11]) or num(ARGV[10])

local function spent(budget, taken, retry)
  redis.call('ZREM', LINE, me)
  redis.call('HINCRBY', H, 'held:' .. today, 1)
  kept()
  return {-1, math.ceil(retry), math.floor(taken), math.floor(budget)}
end
local budget = num(f[4])
if budget > 0 then
  local room = math.floor(budget * (1 - share)) - used
  if room < 1 then
    if now - num(f[6]) < (used >= budget and SPENT_MS or BELIEVED_MS) then return spent(budget, used, RETRY_MS) end
    -- Old news: it is forgotten, and the answers to these calls tell it anew.
    redis.call('HDEL', H, 'dl', 'du', 'da')
    budget = 0
  else
    wanted = math.min(wanted, room)
  end
end
local allowed = num(ARGV[12])
if allowed > 0 then
  local room = math.floor(allowed * (1 - (bulk and num(ARGV[11]) or 0))) - own
  if room < 1 then return spent(allowed, own, math.min(3600000, (86400 - clock[1] % 86400) * 1000)) end
  wanted = math.min(wanted, room)
end

local wait, granted, level = 0, 0, 0
if num(f[3]) > now then
  wait = num(f[3]) - now
elseif limit <= 0 or window <= 0 then
  granted = wanted
else
  redis.call('ZREMRANGEBYSCORE', TURNS, '-inf', now)
  local cap = limit
  if num(f[12]) > now then cap = math.max(1, cap - num(f[11])) end
  local free = cap - redis.call('ZCARD', TURNS)
  -- What bulk work has left of its own part, where live work is about.
  local part = math.huge
  if bulk and num(f[13]) > now - window then
    redis.call('ZREMRANGEBYSCORE', BULK, '-inf', now)
    part = math.max(1, math.ceil(cap * (1 - LIVE_PART))) - redis.call('ZCARD', BULK)
  end
  local burst = math.max(1, BURST * limit)
  level = f[9] and math.min(burst, num(f[9]) + (now - num(f[10])) * limit / window) or burst
  -- Whose oldest call came before my oldest one goes first; live before bulk, unless that waited for three windows.
  local ahead = 0
  for _, each in ipairs(redis.call('ZRANGE', LINE, 0, -1)) do
    if each ~= me then
      if num(redis.call('ZSCORE', FRESH, each)) < now then
        redis.call('ZREM', LINE, each)
        redis.call('ZREM', FRESH, each)
      else
        local its = num(redis.call('ZSCORE', LINE, each))
        local its_bulk = string.sub(each, -2) == ':1'
        local mine = now - num(ARGV[6])
        if its_bulk == bulk then
          if its < mine then ahead = ahead + 1 end
        elseif bulk then
          if num(ARGV[6]) < 3 * window or its < mine then ahead = ahead + 1 end
        elseif now - its > 3 * window and its < mine then
          ahead = ahead + 1
        end
      end
    end
  end
  granted = math.max(0, math.min(wanted, free - ahead, part, math.floor(level + 0.001) - ahead))
  level = level - granted
  local first = num(ARGV[13])
  for i = 1, granted do
    local name = ARGV[3] .. ':' .. (first + i) .. (bulk and ':b' or '')
    redis.call('ZADD', TURNS, now + num(ARGV[9]) + window, name)
    if bulk then redis.call('ZADD', BULK, now + num(ARGV[9]) + window, name) end
  end
  redis.call('HSET', H, 'lb', level, 'la', now)
  if granted < wanted then
    if level < ahead + 1 then wait = (ahead + 1 - level) * window / limit end
    for set, short in pairs({[TURNS] = ahead + 1 - (free - granted), [BULK] = 1 - (part - granted)}) do
      if short > 0 then
        -- A call under way frees its turn a whole window from now at the earliest.
        local at = redis.call('ZRANGE', set, short - 1, short - 1, 'WITHSCORES')
        wait = math.max(wait, math.min(num(at[2]), now + window) - now)
      end
    end
  end
end
redis.call('HSET', H, 'day', today, 'own', own + granted)
if budget > 0 then redis.call('HSET', H, 'du', used + granted) end
if not bulk then redis.call('HSET', H, 'live', now) end
if granted < wanted then
  wait = math.max(2, math.ceil(wait))
  redis.call('ZADD', LINE, granted > 0 and now or now - num(ARGV[6]), me)
  redis.call('ZADD', FRESH, now + wait + LATE_MS, me)
else
  redis.call('ZREM', LINE, me)
end
kept()
return {granted, wait}
