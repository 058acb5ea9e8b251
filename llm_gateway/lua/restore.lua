-- Redis knows nothing of this tenant's day: take the count from Postgres, unless somebody else was faster.
--
-- KEYS  1 quota
-- ARGV  1 new generation  2 day that was counted  3 requests of the tenant  then pairs: user, requests
if redis.call('HEXISTS', KEYS[1], 'generation') == 1 then return redis.call('HGET', KEYS[1], 'generation') end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'day', ARGV[2], 'n', ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], 'u:' .. ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], 172800)
return ARGV[1]
