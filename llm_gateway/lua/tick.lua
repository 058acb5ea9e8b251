-- It is time: whose turn is it on this line?
-- ARGV  1 replica  2 line  3 provider key  4..7 line: requests, tokens, requests a day, tokens a day  8 burst  9 window, ms
--       10 11 provider key: requests and tokens a window
-- Returns in how many ms to look again; -1: nobody waits.
local ms, burst = tonumber(ARGV[9]), tonumber(ARGV[8])
local lw = window(ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ms, burst)
local kw = nil
if ARGV[10] ~= '0' or ARGV[11] ~= '0' then
  kw = window('k:' .. ARGV[3], tonumber(ARGV[10]), tonumber(ARGV[11]), 0, 0, ms, burst)
end
local _, next_ms = dispatch(ARGV[2], lw, kw, ARGV[1], '')
return next_ms
