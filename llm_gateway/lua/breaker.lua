-- One model's circuit, for all replicas: who fails every time is left alone for a while, then tried by one question.
-- ARGV  1 name  2 what: failed, succeeded, probe, gave_up, look  3 replica  4 failures that open it  5 first pause, ms
--       6 longest pause, ms  7 life of a probe, ms  8 why (for people)
-- Returns allowed (1/0), run of failures, ms until it may be tried, why
local key = P .. 'b:' .. ARGV[1]
local f = redis.call('HMGET', key, 'run', 'until', 'pause', 'probe', 'by', 'why')
local run, open, pause, probe = num(f[1]), num(f[2]), num(f[3]), num(f[4])
local was = run .. ':' .. open
local allowed, why = 1, f[6] or ''
if ARGV[2] == 'succeeded' then
  redis.call('DEL', key)
  run, open, why = 0, 0, ''
elseif ARGV[2] == 'failed' then
  run, why = run + 1, ARGV[8]
  if open > 0 and (f[5] == ARGV[3] or now >= open) then
    pause = math.min(pause * 2, tonumber(ARGV[6]))
    open = now + pause
  elseif open == 0 and run >= tonumber(ARGV[4]) then
    pause = tonumber(ARGV[5])
    open = now + pause
  end
  redis.call('HSET', key, 'run', run, 'until', open, 'pause', pause, 'why', why)
  redis.call('HDEL', key, 'probe', 'by')
  redis.call('PEXPIRE', key, 3600000)
elseif ARGV[2] == 'gave_up' then
  if f[5] == ARGV[3] then redis.call('HDEL', key, 'probe', 'by') end
elseif ARGV[2] == 'probe' and open > 0 then
  if now < open then
    allowed = 0
  elseif probe > now then
    allowed, open = 0, probe
  else
    redis.call('HSET', key, 'probe', now + tonumber(ARGV[7]), 'by', ARGV[3])
  end
end
if was ~= run .. ':' .. open and ARGV[2] ~= 'probe' and ARGV[2] ~= 'look' then
  redis.call('PUBLISH', P .. 'breakers', ARGV[1] .. ' ' .. run .. ' ' .. math.max(0, math.ceil(open - now)) .. ' ' .. (open > 0 and 1 or 0) .. ' ' .. why)
end
return {allowed, run, open > 0 and math.max(0, math.ceil(open - now)) or -1, why}
