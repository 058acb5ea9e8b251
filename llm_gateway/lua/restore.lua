-- Redis knows nothing of this tenant's day and month: take the counts from Postgres, unless somebody else was faster.
--
-- ARGV  1 tenant  2 new generation  3 day that was counted  4 5 6 the day's requests, tokens, nanodollars  7 8 9 the month's
--       10 how many batches are held, then for each: id, user, tokens, nanodollars, day, month, requests, ms that it is held
--       how many batches stand in those counts of which Redis may yet be told, then their names (see `settle.lua`)
--       then for each user: user, requests, tokens, nanodollars
local quota, users, held = P .. 'q:' .. ARGV[1], P .. 'qu:' .. ARGV[1], P .. 'qr:' .. ARGV[1]
if redis.call('HEXISTS', quota, 'g') == 1 then return redis.call('HGET', quota, 'g') end
-- What may still be held is in none of these counts: whose end is told is counted whole.
redis.call('DEL', users, held)
redis.call('HSET', quota, 'g', ARGV[2], 'd', ARGV[3], 'm', month_of(tonumber(ARGV[3])), 'dn', ARGV[4], 'dt', ARGV[5], 'dc', ARGV[6],
  'mn', ARGV[7], 'mt', ARGV[8], 'mc', ARGV[9])
local at = 11
local batches = at + 8 * tonumber(ARGV[10])
local names = batches + 1 + tonumber(ARGV[batches])
for i = batches + 1, names - 1 do redis.call('SET', P .. 'qs:' .. ARGV[1] .. ':' .. ARGV[i], 1, 'EX', 777600) end
for i = names, #ARGV, 4 do
  redis.call('HSET', users, ARGV[i] .. ':n', ARGV[i + 1], ARGV[i] .. ':t', ARGV[i + 2], ARGV[i] .. ':c', ARGV[i + 3])
end
-- As `admit.lua` held them: under the same names, so that their end gives back exactly this.
for i = at, batches - 1, 8 do
  local id, user, t, c, d, m, n, ms = unpack(ARGV, i, i + 7)
  local many = n ~= '1' and '|' .. n or ''
  redis.call('ZADD', held, now + tonumber(ms), id .. '|' .. user .. '|' .. t .. '|' .. c .. '|' .. d .. '|' .. m .. many)
  for what, amount in pairs({n = n, t = t, c = c}) do
    if d == ARGV[3] then
      redis.call('HINCRBY', quota, 'd' .. what, amount)
      if user ~= '' then redis.call('HINCRBY', users, user .. ':' .. what, amount) end
    end
    if tonumber(m) == month_of(tonumber(ARGV[3])) then redis.call('HINCRBY', quota, 'm' .. what, amount) end
  end
end
redis.call('EXPIRE', held, 777600)
redis.call('EXPIRE', quota, 3024000)
redis.call('EXPIRE', users, 172800)
return ARGV[2]
