-- Questions that are now in Postgres, and were counted in Redis before: if Redis was rebuilt in between, the rebuild may
-- not have seen them, so they are counted again. In doubt too many, never too few.
--
-- KEYS  1 quota
-- ARGV  1 generation they were counted in  2 day  3 requests  then pairs: user, requests
local quota = redis.call('HMGET', KEYS[1], 'generation', 'day')
if not quota[1] or quota[1] == ARGV[1] or quota[2] ~= ARGV[2] then return 0 end
redis.call('HINCRBY', KEYS[1], 'n', ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], 'u:' .. ARGV[i], ARGV[i + 1]) end
return 1
