-- One question after it was asked, or after it was given up: what was reserved becomes what it was; its answer is kept, and
-- told to the replicas that wait for it.
--
-- ARGV  1 replica  2 id  3 tenant  4 user  5 day  6 month  7 tokens reserved  8 nanodollars reserved  9 how it ended: answered,
--       failed (sent, no answer: the request stays in the window, and comes back to the quotas), unsent,
--       unheard (sent, and nobody waited for the answer: as failed, but what it took is counted)
--       10 tokens  11 nanodollars  12 slot (-1: still in the line, -2: granted without Redis)  13 tokens expected  14 tokens for the window
--       15 line  16 provider key ('': no limit over all models)  17 window, ms  18 burst  19 line's requests  20 line's tokens  21 22 provider key's
--       23 cache entry  24 sealed answer ('': none)  25 its life, s  26 flight  27 what waiting replicas are told
--       28 29 tenant's requests and tokens a window  30 31 requests reserved and answered, where they are not 1
--       32 name under which this is counted once, however often it is told ('': it is told once)
-- Returns the generation that the question is counted in; '' when none (Redis lost its state, and nobody rebuilt it).
local tenant, user, ended = ARGV[3], ARGV[4], ARGV[9]
local reserved, answers = tonumber(ARGV[30]) or 1, tonumber(ARGV[31]) or 1
local quota, users = P .. 'q:' .. tenant, P .. 'qu:' .. tenant
local generation = ''
if ARGV[5] ~= '' then
  local member = ARGV[2] .. '|' .. user .. '|' .. ARGV[7] .. '|' .. ARGV[8] .. '|' .. ARGV[5] .. '|' .. ARGV[6]
  if reserved ~= 1 then member = member .. '|' .. ARGV[30] end
  local held = redis.call('ZREM', P .. 'qr:' .. tenant, member) == 1
  local q = redis.call('HMGET', quota, 'g', 'd', 'm')
  generation = q[1] or ''
  local once = ARGV[32] or ''
  -- Nine days, as what is held.
  if q[1] and (once == '' or redis.call('SET', P .. 'qs:' .. tenant .. ':' .. once, 1, 'NX', 'EX', 777600)) then
    local real = {ended == 'answered' and answers or 0, tonumber(ARGV[10]), tonumber(ARGV[11])}
    -- Its reservation is gone (expired, or lost with Redis): then it is counted whole.
    local was = held and {reserved, tonumber(ARGV[7]), tonumber(ARGV[8])} or {0, 0, 0}
    for i, what in ipairs({'n', 't', 'c'}) do
      local change = real[i] - was[i]
      if change ~= 0 then
        if q[2] == ARGV[5] then
          redis.call('HINCRBY', quota, 'd' .. what, change)
          if user ~= '' then redis.call('HINCRBY', users, user .. ':' .. what, change) end
        end
        if q[3] == ARGV[6] then redis.call('HINCRBY', quota, 'm' .. what, change) end
      end
    end
  end
end

local slot, change = tonumber(ARGV[12]), tonumber(ARGV[14]) - tonumber(ARGV[13])
local unsent = ended == 'unsent' and -1 or 0
if slot == -1 then
  redis.call('HDEL', root_of(ARGV[15]) .. ':wait', ARGV[2])
elseif (slot == -2 and unsent == 0) or (slot >= 0 and (unsent ~= 0 or change ~= 0)) then
  local ms, burst = tonumber(ARGV[17]), tonumber(ARGV[18])
  local windows = {
    window(ARGV[15], tonumber(ARGV[19]), tonumber(ARGV[20]), 0, 0, ms, burst),
    window('t:' .. tenant, tonumber(ARGV[28]), tonumber(ARGV[29]), 0, 0, ms, TENANT_BURST),
  }
  if ARGV[16] ~= '' then
    windows[3] = window('k:' .. ARGV[16], tonumber(ARGV[21]), tonumber(ARGV[22]), 0, 0, ms, burst)
  end
  for _, w in ipairs(windows) do
    if slot == -2 then take(w, 1, tonumber(ARGV[14])) else correct(w, slot, unsent, change) end
  end
end

if ARGV[24] ~= '' and ARGV[25] ~= '0' then redis.call('SET', P .. 'a:' .. ARGV[23], ARGV[24], 'EX', ARGV[25]) end
if ARGV[26] ~= '' then
  local flight = P .. 'f:' .. ARGV[26]
  if redis.call('GET', flight) == ARGV[2] then
    redis.call('DEL', flight)
    for _, who in ipairs(redis.call('SMEMBERS', flight .. ':who')) do
      redis.call('PUBLISH', P .. 'replica:' .. who, 'F ' .. ARGV[26] .. ' ' .. ARGV[27])
    end
    redis.call('DEL', flight .. ':who')
  end
end
return generation
