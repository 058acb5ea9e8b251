-- Redis knows nothing of this tenant's day and month: take the counts from Postgres, unless somebody else was faster.
--
-- ARGV  1 tenant  2 new generation  3 day that was counted  4 5 6 the day's requests, tokens, nanodollars  7 8 9 the month's
--       then for each user: user, requests, tokens, nanodollars
local quota, users = P .. 'q:' .. ARGV[1], P .. 'qu:' .. ARGV[1]
if redis.call('HEXISTS', quota, 'g') == 1 then return redis.call('HGET', quota, 'g') end
redis.call('DEL', users)
redis.call('HSET', quota, 'g', ARGV[2], 'd', ARGV[3], 'm', month_of(tonumber(ARGV[3])), 'dn', ARGV[4], 'dt', ARGV[5], 'dc', ARGV[6],
  'mn', ARGV[7], 'mt', ARGV[8], 'mc', ARGV[9])
for i = 10, #ARGV, 4 do
  redis.call('HSET', users, ARGV[i] .. ':n', ARGV[i + 1], ARGV[i] .. ':t', ARGV[i + 2], ARGV[i] .. ':c', ARGV[i + 3])
end
redis.call('EXPIRE', quota, 3024000)
redis.call('EXPIRE', users, 172800)
return ARGV[2]
