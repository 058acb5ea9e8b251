-- What the provider said of its limits: quiet for so long (429, or nothing is left), limits that it told, and how much of its
-- day is used, by all who use the key. Its count is lowered as well as raised: a day of its own does not end at midnight.
-- ARGV  1 line  2 quiet, ms (0: none)  3 tokens a minute (0: not said)  4 requests a day (0)  5 requests of the day used (-1)
--       6 slot of the question with whose answer it said so (negative: not known)
local key = P .. 'w:' .. ARGV[1]
if ARGV[2] ~= '0' then redis.call('HSET', key, 'quiet', math.max(num(redis.call('HGET', key, 'quiet')), now + tonumber(ARGV[2]))) end
if ARGV[3] ~= '0' then redis.call('HSET', key, 'tpm', ARGV[3]) end
if ARGV[4] ~= '0' then redis.call('HSET', key, 'rpd', ARGV[4]) end
if ARGV[5] ~= '-1' then
  local used, slot = tonumber(ARGV[5]), tonumber(ARGV[6])
  local f = redis.call('HMGET', key, 'day', 'at', 'hr')
  local at, fresh = num(f[2]), num(f[1]) == today
  if slot >= 0 and slot <= at and at - slot <= SLOTS then
    -- What was granted since that question was: the provider may not have seen it when it counted.
    local names, since = {}, -1
    for i = slot, at do names[#names + 1] = 'r' .. i end
    for _, taken in ipairs(redis.call('HMGET', key .. ':s', unpack(names))) do since = since + num(taken) end
    used = used + math.max(0, since)
  elseif fresh then
    used = math.max(used, num(f[3]))
  end
  if not fresh then redis.call('HSET', key, 'day', today, 'dr', 0, 'dt', 0) end
  redis.call('HSET', key, 'hr', used)
end
redis.call('EXPIRE', key, 172800)
return 1
