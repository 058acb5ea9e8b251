-- One question before it is asked: its cached answer, or a place in the tenant's rate and in the daily quotas.
-- Everything is decided here, so that it is atomic whoever asks. Nothing is taken unless everything is granted.
--
-- KEYS  1 cached answer  2 bucket  3 quota  4 reservations       (all of one tenant)
-- ARGV  1 look for a cached answer (1/0)  2 requests a minute  3 tokens a minute  4 requests a day, tenant
--       5 requests a day, user  6 tokens expected  7 patience, ms  8 reservation  9 user  10 life of a reservation, ms
-- Returns HIT bytes | GRANTED wait_ms generation day | LATE wait_ms | SPENT tenant/user seconds_to_reset | REBUILD
if ARGV[1] == '1' then
  local hit = redis.call('GET', KEYS[1])
  if hit then return {'HIT', hit} end
end

local time = redis.call('TIME')
local seconds = tonumber(time[1])
local now = seconds * 1000 + math.floor(tonumber(time[2]) / 1000)
local day = math.floor(seconds / 86400)
local user = ARGV[9]

local quota = redis.call('HMGET', KEYS[3], 'generation', 'day')
local generation = quota[1]
if not generation then return {'REBUILD'} end
if tonumber(quota[2]) ~= day then
  redis.call('DEL', KEYS[3], KEYS[4])
  redis.call('HSET', KEYS[3], 'generation', generation, 'day', day, 'n', 0)
end

-- The client library sent it again because the first answer was lost on the way: it was granted once.
if redis.call('ZSCORE', KEYS[4], ARGV[8] .. ':' .. user) then return {'GRANTED', 0, generation, day} end

-- What a dead process reserved comes back.
local dead = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 1000)
for _, member in ipairs(dead) do
  redis.call('ZREM', KEYS[4], member)
  redis.call('HINCRBY', KEYS[3], 'n', -1)
  local owner = string.match(member, ':(.*)$')
  if owner ~= '' then redis.call('HINCRBY', KEYS[3], 'u:' .. owner, -1) end
end

local left = 86400 - seconds % 86400
if tonumber(redis.call('HGET', KEYS[3], 'n')) >= tonumber(ARGV[4]) then return {'SPENT', 'tenant', left} end
if user ~= '' and tonumber(redis.call('HGET', KEYS[3], 'u:' .. user) or 0) >= tonumber(ARGV[5]) then
  return {'SPENT', 'user', left}
end

-- The bucket may be owed: who comes next is told when his turn is, and need not ask again.
local bucket = redis.call('HMGET', KEYS[2], 'requests', 'tokens', 'at')
local passed = math.max(0, now - tonumber(bucket[3] or now))
local per_minute, tokens_per_minute = tonumber(ARGV[2]), tonumber(ARGV[3])
local requests = math.min(per_minute, tonumber(bucket[1] or per_minute) + passed * per_minute / 60000)
local tokens = math.min(tokens_per_minute, tonumber(bucket[2] or tokens_per_minute) + passed * tokens_per_minute / 60000)
-- A question larger than a minute's tokens waits for a full bucket, and owes the rest.
local needed = math.min(tonumber(ARGV[6]), tokens_per_minute)
local wait = 0
if requests < 1 then wait = (1 - requests) * 60000 / per_minute end
if tokens < needed then wait = math.max(wait, (needed - tokens) * 60000 / tokens_per_minute) end
wait = math.ceil(wait)
if wait > tonumber(ARGV[7]) then return {'LATE', wait} end

redis.call('HSET', KEYS[2], 'requests', requests - 1, 'tokens', tokens - tonumber(ARGV[6]), 'at', math.max(now, tonumber(bucket[3] or now)))
redis.call('PEXPIRE', KEYS[2], 600000)
redis.call('HINCRBY', KEYS[3], 'n', 1)
if user ~= '' then redis.call('HINCRBY', KEYS[3], 'u:' .. user, 1) end
redis.call('EXPIRE', KEYS[3], 172800)
redis.call('ZADD', KEYS[4], now + wait + tonumber(ARGV[10]), ARGV[8] .. ':' .. user)
redis.call('EXPIRE', KEYS[4], 172800)
return {'GRANTED', wait, generation, day}
