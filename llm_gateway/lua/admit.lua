-- One question before it is asked: its cached answer; or somebody who is asking it already; or a place in the quotas and in
-- the line. Everything is decided here, so that it is atomic whoever asks. Nothing is taken unless everything is granted.
--
-- ARGV  1 replica  2 id  3 tenant  4 user  5 lane  6 cache entry ('': none)  7 flight ('': none)  8 look into the cache
--       9 tokens expected  10 tokens at most  11 nanodollars at most  12 patience, ms  13 life of a reservation, ms
--       14 requests that it counts in the quotas (0: they do not apply)  15 line  16 provider key ('': it has no limit over all models)
--       17..25 quotas: user, day, month: requests, tokens, nanodollars   26 soft share
--       27 28 tenant's requests and tokens a window  29 weight  30 window, ms
--       31..34 line: requests, tokens, requests a day, tokens a day  35 burst
--       36..39 provider key: requests and tokens a window, requests and tokens a day
-- Returns HIT bytes | FOLLOW holder | GRANTED generation day month soft used slot | QUEUED generation day month soft used next_ms
--       | LATE ms what | SPENT scope what seconds | REBUILD
-- `used` is what was taken before this one, where quotas are limited: the day's requests, tokens, nanodollars, the month's, the
-- user's. Said as Redis keeps it, since numbers that are made into text cost Redis ten times as much.
local replica, id, tenant, user, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local tokens, most, nano = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
if ARGV[8] == '1' and ARGV[6] ~= '' then
  local hit = redis.call('GET', P .. 'a:' .. ARGV[6])
  if hit then return {'HIT', hit} end
end

local flight = P .. 'f:' .. ARGV[7]
if ARGV[7] ~= '' then
  local holder = redis.call('GET', flight)
  if holder then
    local of = string.match(holder, '^([^:]+):')
    if of ~= replica and redis.call('EXISTS', P .. 'alive:' .. of) == 1 then
      redis.call('SADD', flight .. ':who', replica)
      redis.call('PEXPIRE', flight .. ':who', 3600000)
      return {'FOLLOW', of}
    end
  end
end

local quota, users, held = P .. 'q:' .. tenant, P .. 'qu:' .. tenant, P .. 'qr:' .. tenant
local generation, soft, used_before = '', '', ''
if ARGV[14] ~= '0' then
  local q = redis.call('HMGET', quota, 'g', 'd', 'm', 'dn', 'dt', 'dc', 'mn', 'mt', 'mc')
  generation = q[1]
  if not generation then return {'REBUILD'} end
  local sums = {day = {num(q[4]), num(q[5]), num(q[6])}, month = {num(q[7]), num(q[8]), num(q[9])}, user = {0, 0, 0}}
  if num(q[2]) ~= today then
    redis.call('DEL', users)
    redis.call('HSET', quota, 'd', today, 'dn', 0, 'dt', 0, 'dc', 0)
    sums.day = {0, 0, 0}
  end
  if num(q[3]) ~= month then
    redis.call('HSET', quota, 'm', month, 'mn', 0, 'mt', 0, 'mc', 0)
    sums.month = {0, 0, 0}
  end
  -- What a dead process reserved comes back.
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now, 'LIMIT', 0, 200)) do
    redis.call('ZREM', held, member)
    local owner, t, c, d, m, n = string.match(member, '^[^|]*|([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|?(%d*)$')
    local back = {tonumber(n) or 1, tonumber(t), tonumber(c)}
    for i, what in ipairs({'n', 't', 'c'}) do
      if tonumber(d) == today then
        redis.call('HINCRBY', quota, 'd' .. what, -back[i])
        sums.day[i] = sums.day[i] - back[i]
        if owner ~= '' then redis.call('HINCRBY', users, owner .. ':' .. what, -back[i]) end
      end
      if tonumber(m) == month then
        redis.call('HINCRBY', quota, 'm' .. what, -back[i])
        sums.month[i] = sums.month[i] - back[i]
      end
    end
  end
  local by_user = ''
  if user ~= '' and (ARGV[17] ~= '0' or ARGV[18] ~= '0' or ARGV[19] ~= '0') then
    local u = redis.call('HMGET', users, user .. ':n', user .. ':t', user .. ':c')
    sums.user = {num(u[1]), num(u[2]), num(u[3])}
    by_user = ' ' .. (u[1] or '0') .. ' ' .. (u[2] or '0') .. ' ' .. (u[3] or '0')
  end
  local limited = false
  local add, names, at = {tonumber(ARGV[14]), most, nano}, {'requests', 'tokens', 'dollars'}, 17
  for _, scope in ipairs({'user', 'day', 'month'}) do
    for i = 1, 3 do
      local hard = tonumber(ARGV[at])
      if hard > 0 and (scope ~= 'user' or user ~= '') then
        local used = sums[scope][i] + add[i]
        if used > hard then
          local reset = scope == 'month' and seconds_to_month() or 86400 - clock[1] % 86400
          return {'SPENT', scope, names[i], tostring(reset)}
        end
        if used >= hard * tonumber(ARGV[26]) then soft = soft .. scope .. ':' .. names[i] .. ' ' end
        limited = true
      end
      at = at + 1
    end
  end
  if limited and num(q[2]) == today and num(q[3]) == month then
    used_before = (q[4] or '0') .. ' ' .. (q[5] or '0') .. ' ' .. (q[6] or '0') .. ' ' .. (q[7] or '0') .. ' ' .. (q[8] or '0') .. ' '
      .. (q[9] or '0') .. by_user
  end
end

local line, ms, burst = ARGV[15], tonumber(ARGV[30]), tonumber(ARGV[35])
local lw = window(line, tonumber(ARGV[31]), tonumber(ARGV[32]), tonumber(ARGV[33]), tonumber(ARGV[34]), ms, burst)
local kw = nil
if ARGV[16] ~= '' then
  kw = window('k:' .. ARGV[16], tonumber(ARGV[36]), tonumber(ARGV[37]), tonumber(ARGV[38]), tonumber(ARGV[39]), ms, burst)
end
local tw = window('t:' .. tenant, tonumber(ARGV[27]), tonumber(ARGV[28]), 0, 0, ms, TENANT_BURST)

local wait, day_spent, why = wait_of(lw, tokens, lane)
if kw and not day_spent then
  local key_wait, key_day_spent = wait_of(kw, tokens, lane)
  wait, day_spent = math.max(wait, key_wait), key_day_spent
end
if day_spent then return {'LATE', tostring(math.ceil(wait)), 'day'} end
local own_wait = wait_of(tw, tokens, lane)
local root = root_of(line)
local before = 0
for i = 1, lane do before = before + redis.call('ZCARD', root .. ':' .. i) end
local slot, next_ms = lw.slot, -1
if before > 0 or wait > 0 or own_wait > 0 then
  local patience = tonumber(ARGV[12])
  -- About when it would be this one's turn: everybody who waits is as fair a tenant as this one.
  local length = redis.call('LLEN', root .. ':' .. lane .. ':' .. tenant)
  local turn, ahead = math.max(wait, own_wait), length * math.max(1, before)
  if lw.requests > 0 then turn = math.max(turn, ahead * ms / lw.requests) end
  if lw.tokens > 0 then turn = math.max(turn, ahead * tokens * ms / lw.tokens) end
  if own_wait > 0 and tonumber(ARGV[27]) > 0 then turn = math.max(turn, length * ms / tonumber(ARGV[27])) end
  if turn > patience then
    return {'LATE', tostring(math.ceil(turn)), own_wait > wait and 'tenant' or why or 'model'}
  end
  enqueue(root, lane, tenant, id, {replica, tokens, now + patience, tw.requests, tw.tokens, tonumber(ARGV[29])})
  local tick = num(redis.call('HGET', root, 'tick'))
  if wait > 0 and tick > now and tick <= now + wait + 1 then
    -- The line stands still, and somebody will look as soon as it moves.
    slot, next_ms = false, math.ceil(tick - now) + 250
  else
    slot, next_ms = dispatch(line, lw, kw, replica, id)
  end
else
  take(lw, 1, tokens)
  if kw then take(kw, 1, tokens) end
  take(tw, 1, tokens)
end

if ARGV[14] ~= '0' then
  local add = {tonumber(ARGV[14]), most, nano}
  for i, what in ipairs({'n', 't', 'c'}) do
    if add[i] > 0 then
      redis.call('HINCRBY', quota, 'd' .. what, add[i])
      redis.call('HINCRBY', quota, 'm' .. what, add[i])
      if user ~= '' then redis.call('HINCRBY', users, user .. ':' .. what, add[i]) end
    end
  end
  redis.call('EXPIRE', quota, 3024000)
  redis.call('EXPIRE', users, 172800)
  local many = ARGV[14] ~= '1' and '|' .. ARGV[14] or ''
  redis.call('ZADD', held, now + tonumber(ARGV[13]), id .. '|' .. user .. '|' .. most .. '|' .. nano .. '|' .. today .. '|' .. month .. many)
  -- Nine days: a provider's batch may take a week.
  redis.call('EXPIRE', held, 777600)
end
if ARGV[7] ~= '' then redis.call('SET', flight, id, 'PX', ARGV[13]) end
if slot then return {'GRANTED', generation, today, month, soft, used_before, slot, next_ms} end
return {'QUEUED', generation, today, month, soft, used_before, -1, next_ms}
