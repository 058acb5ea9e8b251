-- A limit: requests and tokens in a sliding window, and in a day.
--
-- The day is counted twice. What we granted ourselves (`dr`, `dt`) is held against a limit that was configured, until midnight
-- (UTC). What the provider's headers say is used (`hr`, with what was granted since) is held against the limit that they say
-- (`rpd`): its day may be another one, so then one question goes when one is back (after PAUSE at most) and hears how it stands.
--
-- The window is cut into SLOTS, and what the last SLOTS + 1 of them took is the truth: in no window of that length, wherever
-- it begins, is more taken than the limit. Where `burst` is given, a bucket paces besides: so that a crowd does not take the
-- window in its first second and leave everybody standing for the rest of it. PACE below 1 keeps room for the way from the
-- grant to the provider, and for tokens that were guessed.
local SLOTS = 200
local PACE_REQUESTS, PACE_TOKENS = 0.985, 0.97
-- A tenant may begin with half of its minute at once.
local TENANT_BURST = 0.5
-- Of the bucket, what a lane leaves to those before it; of the window, what lanes after the first may take.
local KEEP = {0, 0.25, 0.9}
local CAP_REQUESTS, CAP_TOKENS = 0.99, 0.98
local PAUSE = 60000

-- What a window may take, a window's length long. One that holds less than it should (whoever was to look came late, as on a
-- busy machine) is paced a little faster until it does.
local function pace(share, held, limit)
  if limit == 0 then return 0 end
  return (share + math.min(0.1, math.max(0, 2 * (share - held / limit)))) * limit
end

local function window(name, requests, tokens, per_day, tokens_per_day, ms, burst)
  local key = P .. 'w:' .. name
  local f = redis.call('HMGET', key, 'at', 'r', 't', 'lr', 'lt', 'la', 'quiet', 'day', 'dr', 'dt', 'tpm', 'rpd', 'hr', 'try')
  local w = {key = key, ms = ms, burst = burst, requests = requests, tokens = tokens, per_day = per_day,
    tokens_per_day = tokens_per_day, r = num(f[2]), t = num(f[3]), quiet = num(f[7]), dr = num(f[9]), dt = num(f[10]),
    told = num(f[12]), hr = num(f[13]), try = num(f[14])}
  -- What nobody configured, the provider's headers may have told.
  if tokens == 0 then w.tokens = num(f[11]) end
  if num(f[8]) ~= today then w.dr, w.dt = 0, 0 end
  local width = ms / SLOTS
  w.slot = math.floor(now / width)
  local at = tonumber(f[1])
  if at and (w.slot < at or w.slot - at > SLOTS) then
    redis.call('DEL', key .. ':s')
    w.r, w.t = 0, 0
  elseif at and w.slot > at then
    local names = {}
    for i = at - SLOTS, w.slot - SLOTS - 1 do
      names[#names + 1] = 'r' .. i
      names[#names + 1] = 't' .. i
    end
    local gone = redis.call('HMGET', key .. ':s', unpack(names))
    local some = false
    for i = 1, #names, 2 do
      if gone[i] or gone[i + 1] then
        w.r, w.t, some = w.r - num(gone[i]), w.t - num(gone[i + 1]), true
      end
    end
    if some then redis.call('HDEL', key .. ':s', unpack(names)) end
  end
  if at and w.slot ~= at then redis.call('HSET', key, 'at', w.slot, 'r', w.r, 't', w.t) end
  if burst > 0 then
    local passed = math.max(0, now - (tonumber(f[6]) or 0))
    -- A bucket holds no more than the window has room for: who stood still because the window was full does not run
    -- when it opens, else he stands still again.
    w.cr = math.max(1, math.min(burst * w.requests, CAP_REQUESTS * w.requests - w.r))
    w.ct = math.max(1, math.min(burst * w.tokens, CAP_TOKENS * w.tokens - w.t))
    w.rr, w.rt = pace(PACE_REQUESTS, w.r, w.requests) / ms, pace(PACE_TOKENS, w.t, w.tokens) / ms
    w.lr = f[4] and math.min(w.cr, tonumber(f[4]) + passed * w.rr) or w.cr
    w.lt = f[5] and math.min(w.ct, tonumber(f[5]) + passed * w.rt) or w.ct
  end
  return w
end

-- Milliseconds until `need` of what the window holds has slid out of it.
local function until_free(w, need, what)
  local names = {}
  for i = w.slot - SLOTS, w.slot do names[#names + 1] = what .. i end
  local found = redis.call('HMGET', w.key .. ':s', unpack(names))
  for i = 1, #names do
    need = need - num(found[i])
    if need <= 0 then return math.max(1, (w.slot + i) * w.ms / SLOTS - now) end
  end
  return w.ms
end

-- Milliseconds until a request of so many tokens may pass; 0: now. Whether it is the day that is spent. And what it waits for,
-- where that is no minute.
local function wait_of(w, tokens, lane)
  if w.quiet > now then return w.quiet - now, nil, 'quiet' end
  if (w.per_day > 0 and w.dr + 1 > w.per_day) or (w.tokens_per_day > 0 and w.dt + tokens > w.tokens_per_day) then
    return (86400 - clock[1] % 86400) * 1000, true
  end
  local wait, why = 0, nil
  if w.told > 0 and w.hr >= w.told and w.try > now then wait, why = w.try - now, 'told' end
  local share = w.burst > 0 and lane > 1
  if w.requests > 0 then
    local cap = share and math.ceil(w.requests * CAP_REQUESTS) or w.requests
    if w.r + 1 > cap then wait = math.max(wait, until_free(w, w.r + 1 - cap, 'r')) end
    if w.burst > 0 then
      local level = 1 + KEEP[lane] * (w.cr - 1)
      if w.lr < level then wait = math.max(wait, (level - w.lr) / w.rr) end
    end
  end
  if w.tokens > 0 then
    local cap = share and math.ceil(w.tokens * CAP_TOKENS) or w.tokens
    -- One that is larger than the whole window passes alone.
    local over = w.t + math.min(tokens, cap) - cap
    if over > 0 then wait = math.max(wait, until_free(w, over, 't')) end
    if w.burst > 0 then
      local need = math.min(tokens, w.ct)
      local level = need + KEEP[lane] * (w.ct - need)
      if w.lt < level then wait = math.max(wait, (level - w.lt) / w.rt) end
    end
  end
  return wait, nil, why
end

local function take(w, requests, tokens)
  w.r, w.t, w.dr, w.dt = w.r + requests, w.t + tokens, w.dr + requests, w.dt + tokens
  redis.call('HINCRBY', w.key .. ':s', 'r' .. w.slot, requests)
  redis.call('HINCRBY', w.key .. ':s', 't' .. w.slot, tokens)
  redis.call('PEXPIRE', w.key .. ':s', 2 * w.ms)
  if w.burst > 0 then
    -- A level of what is not limited would only run into debt, and stand in the way of a limit that is told later.
    if w.requests > 0 then w.lr = w.lr - requests end
    if w.tokens > 0 then w.lt = w.lt - tokens end
    redis.call('HSET', w.key, 'at', w.slot, 'r', w.r, 't', w.t, 'day', today, 'dr', w.dr, 'dt', w.dt, 'lr', w.lr, 'lt', w.lt, 'la', now)
  else
    redis.call('HSET', w.key, 'at', w.slot, 'r', w.r, 't', w.t, 'day', today, 'dr', w.dr, 'dt', w.dt)
  end
  if w.told > 0 then
    w.hr = w.hr + requests
    if w.hr > w.told then w.try = now + math.min(PAUSE, 86400000 / w.told) end
    redis.call('HSET', w.key, 'hr', w.hr, 'try', w.try)
  end
  redis.call('EXPIRE', w.key, 172800)
end

-- What was reserved in `slot` was in truth more or less.
local function correct(w, slot, requests, tokens)
  if requests == 0 and tokens == 0 then return end
  if slot >= w.slot - SLOTS then
    redis.call('HINCRBY', w.key .. ':s', 'r' .. slot, requests)
    redis.call('HINCRBY', w.key .. ':s', 't' .. slot, tokens)
    redis.call('HINCRBY', w.key, 'r', requests)
    redis.call('HINCRBY', w.key, 't', tokens)
  end
  redis.call('HINCRBY', w.key, 'dr', requests)
  if w.told > 0 then redis.call('HINCRBY', w.key, 'hr', requests) end
  redis.call('HINCRBY', w.key, 'dt', tokens)
  if w.burst > 0 then
    if w.requests > 0 then w.lr = math.min(w.cr, w.lr - requests) end
    if w.tokens > 0 then w.lt = math.min(w.ct, w.lt - tokens) end
    redis.call('HSET', w.key, 'lr', w.lr, 'lt', w.lt, 'la', now)
  end
end
