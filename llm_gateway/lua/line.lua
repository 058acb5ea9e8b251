-- Who waits for a model, and who is next: three lanes, in each the tenants by what they had (weighted fair queueing), in each
-- tenant's list who came first. A request costs the larger of its shares of the two limits, so that few large ones weigh as
-- much as many small ones. One grant in twenty goes to the last lane that waits, so that a replay ends some day.
local MOST_GRANTS = 256
local MOST_TENANTS = 64
local EVERY = 20

local function root_of(line) return P .. 'line:' .. line end

local function cost_of(w, tokens, weight)
  local cost = 0
  if w.requests > 0 then cost = 1 / w.requests end
  if w.tokens > 0 then cost = math.max(cost, tokens / w.tokens) end
  if cost == 0 then cost = 1 end
  return cost / weight
end

-- The first of a tenant's list who is still there; forgets those who left, and a list that is empty.
local function head(root, lane, tenant)
  local list = root .. ':' .. lane .. ':' .. tenant
  while true do
    local id = redis.call('LINDEX', list, 0)
    if not id then
      local had = redis.call('ZSCORE', root .. ':' .. lane, tenant)
      redis.call('ZREM', root .. ':' .. lane, tenant)
      if had then redis.call('HSET', root .. ':had', lane .. ':' .. tenant, had) end
      redis.call('EXPIRE', root .. ':had', 3600)
      return nil
    end
    local packed = redis.call('HGET', root .. ':wait', id)
    if packed then
      local entry = cmsgpack.unpack(packed)
      if entry[3] > now then return id, entry, list end
      redis.call('HDEL', root .. ':wait', id)
    end
    redis.call('LPOP', list)
  end
end

local function enqueue(root, lane, tenant, id, entry)
  local list = root .. ':' .. lane .. ':' .. tenant
  redis.call('HSET', root .. ':wait', id, cmsgpack.pack(entry))
  local length = redis.call('RPUSH', list, id)
  if length == 1 then
    local had = num(redis.call('HGET', root .. ':had', lane .. ':' .. tenant))
    redis.call('ZADD', root .. ':' .. lane, math.max(had, num(redis.call('HGET', root, 'v' .. lane))), tenant)
  end
  for _, key in ipairs({root, root .. ':wait', list, root .. ':' .. lane}) do redis.call('EXPIRE', key, 7200) end
end

-- Grants what may be granted now; tells each replica by its channel. Returns whether `own` was granted, and in which slot;
-- and in how many ms this replica shall look again (-1: nobody waits). One replica looks when it is time; the others look a
-- little later, in case it died.
local function dispatch(line, lw, kw, replica, own)
  local root = root_of(line)
  local mail, soonest, mine = {}, -1, false
  local n = num(redis.call('HGET', root, 'n'))
  local own_windows = {}
  local function later(wait) if soonest < 0 or wait < soonest then soonest = wait end end
  for _ = 1, MOST_GRANTS do
    local lanes = {1, 2, 3}
    local turned = n % EVERY == EVERY - 1
    if turned then lanes = {3, 2, 1} end
    local granted, blocked = false, false
    for _, lane in ipairs(lanes) do
      for _, tenant in ipairs(redis.call('ZRANGE', root .. ':' .. lane, 0, MOST_TENANTS - 1)) do
        local id, entry, list = head(root, lane, tenant)
        if id then
          local tokens = entry[2]
          local as = turned and 1 or lane
          local wait = wait_of(lw, tokens, as)
          if kw then wait = math.max(wait, wait_of(kw, tokens, as)) end
          if wait > 0 then
            later(wait)
            blocked = true
            break
          end
          local tw = own_windows[tenant]
          if not tw then
            tw = window('t:' .. tenant, entry[4], entry[5], 0, 0, lw.ms, TENANT_BURST)
            own_windows[tenant] = tw
          end
          wait = wait_of(tw, tokens, lane)
          if wait > 0 then
            later(wait)
          else
            redis.call('LPOP', list)
            redis.call('HDEL', root .. ':wait', id)
            take(lw, 1, tokens)
            if kw then take(kw, 1, tokens) end
            take(tw, 1, tokens)
            local before = redis.call('ZSCORE', root .. ':' .. lane, tenant)
            redis.call('HSET', root, 'v' .. lane, before)
            redis.call('ZINCRBY', root .. ':' .. lane, cost_of(lw, tokens, entry[6]), tenant)
            if id == own then
              mine = lw.slot
            else
              mail[entry[1]] = (mail[entry[1]] or 'G') .. ' ' .. id .. ' ' .. lw.slot
            end
            granted = true
            break
          end
        end
      end
      if blocked or granted then break end
    end
    if not granted then break end
    n = n + 1
    if _ == MOST_GRANTS then later(1) end
  end
  redis.call('HSET', root, 'n', n)
  for to, message in pairs(mail) do redis.call('PUBLISH', P .. 'replica:' .. to, message) end
  if soonest < 0 then return mine, -1 end
  soonest = math.max(1, math.ceil(soonest))
  local tick = redis.call('HMGET', root, 'tick', 'by')
  if num(tick[1]) > now and num(tick[1]) <= now + soonest + 1 and tick[2] ~= replica then
    return mine, math.ceil(num(tick[1]) - now) + 250
  end
  redis.call('HSET', root, 'tick', now + soonest, 'by', replica)
  return mine, soonest
end
