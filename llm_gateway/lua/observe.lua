-- What the provider said of its limits: quiet for so long (429), a limit that nobody configured, or that less is left than
-- was thought here (others use the same key).
-- ARGV  1 line  2 quiet, ms (0: none)  3 tokens a minute (0: not said)  4 requests a day (0)  5 requests of the day used (-1)
local key = P .. 'w:' .. ARGV[1]
if ARGV[2] ~= '0' then redis.call('HSET', key, 'quiet', math.max(num(redis.call('HGET', key, 'quiet')), now + tonumber(ARGV[2]))) end
if ARGV[3] ~= '0' then redis.call('HSET', key, 'tpm', ARGV[3]) end
if ARGV[4] ~= '0' then redis.call('HSET', key, 'rpd', ARGV[4]) end
if ARGV[5] ~= '-1' then
  local f = redis.call('HMGET', key, 'day', 'dr')
  if num(f[1]) ~= today then redis.call('HSET', key, 'dt', 0) end
  if num(f[1]) ~= today or num(f[2]) < tonumber(ARGV[5]) then redis.call('HSET', key, 'day', today, 'dr', ARGV[5]) end
end
redis.call('EXPIRE', key, 172800)
return 1
