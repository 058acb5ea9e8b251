-- Questions that are now in Postgres, and were counted in Redis before: if Redis was rebuilt in between, the rebuild may
-- not have seen them, so they are counted again. In doubt too many, never too few.
--
-- ARGV  1 tenant  2 generation they were counted in  3 day  4 5 6 requests, tokens, nanodollars
--       then for each user: user, requests, tokens, nanodollars
local quota, users = P .. 'q:' .. ARGV[1], P .. 'qu:' .. ARGV[1]
local q = redis.call('HMGET', quota, 'g', 'd', 'm')
if not q[1] or q[1] == ARGV[2] then return 0 end
local names = {'n', 't', 'c'}
if num(q[3]) == month_of(tonumber(ARGV[3])) then
  for i, what in ipairs(names) do redis.call('HINCRBY', quota, 'm' .. what, ARGV[3 + i]) end
end
if q[2] ~= ARGV[3] then return 0 end
for i, what in ipairs(names) do redis.call('HINCRBY', quota, 'd' .. what, ARGV[3 + i]) end
for i = 7, #ARGV, 4 do
  for j, what in ipairs(names) do redis.call('HINCRBY', users, ARGV[i] .. ':' .. what, ARGV[i + j]) end
end
return 1
