-- One question after it was asked, or after it was given up.
--
-- KEYS  1 bucket  2 quota  3 reservations
-- ARGV  1 reservation  2 user  3 day of the reservation  4 answered (1/0)  5 tokens taken above what was expected
--       6 tokens a minute
-- Returns the generation that the question is counted in; '' when none (Redis lost its state, and nobody rebuilt it).
local user = ARGV[2]
local held = redis.call('ZREM', KEYS[3], ARGV[1] .. ':' .. user)
local quota = redis.call('HMGET', KEYS[2], 'generation', 'day')
local today = quota[1] and quota[2] == ARGV[3]

-- Answered, but its reservation is gone (expired, or lost with Redis): count it again. Given up: it comes back.
local change = 0
if ARGV[4] == '1' and held == 0 then change = 1 end
if ARGV[4] == '0' and held == 1 then change = -1 end
if today and change ~= 0 then
  redis.call('HINCRBY', KEYS[2], 'n', change)
  if user ~= '' then redis.call('HINCRBY', KEYS[2], 'u:' .. user, change) end
end

local tokens = redis.call('HGET', KEYS[1], 'tokens')
if tokens and ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[1], 'tokens', math.min(tonumber(ARGV[6]), tonumber(tokens) - tonumber(ARGV[5])))
end
return quota[1] or ''
