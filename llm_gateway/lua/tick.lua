-- It is time: whose turn is it on this line?
-- ARGV  1 replica  2 line  3 provider key ('': no limit over all models)  4..7 line: requests, tokens, requests a day, tokens a day  8 burst  9 window, ms
--       10..13 provider key: requests and tokens a window, requests and tokens a day
-- Returns in how many ms to look again; -1: nobody waits.
local ms, burst = tonumber(ARGV[9]), tonumber(ARGV[8])
local lw = window(ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ms, burst)
local kw = nil
if ARGV[3] ~= '' then
  kw = window('k:' .. ARGV[3], tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), ms, burst)
end
local _, next_ms = dispatch(ARGV[2], lw, kw, ARGV[1], '')
return next_ms
