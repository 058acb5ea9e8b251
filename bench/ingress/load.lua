-- Requests that were signed beforehand, each sent once; prints what came of them as one line of JSON.
local signed = {}
for line in io.lines(os.getenv("BENCH_SIGNED")) do signed[#signed + 1] = line:gsub("\t", "\r\n") end
local file = io.open(os.getenv("BENCH_BODY"), "rb")
local body = file:read("*a")
file:close()
local head = os.getenv("BENCH_HEAD")
local pause = tonumber(os.getenv("BENCH_PAUSE_MS") or "0")
local tail = "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
local sent = 0
used_up = 0

request = function()
  sent = sent + 1
  if sent > #signed then
    sent = 1
    used_up = used_up + 1
  end
  return head .. signed[sent] .. tail
end

if pause > 0 then
  delay = function() return math.random(0, 2 * pause) end
end

local threads = {}
setup = function(thread) threads[#threads + 1] = thread end

done = function(summary, latency)
  local again = 0
  for _, thread in ipairs(threads) do again = again + thread:get("used_up") end
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "connect": %d, "read": %d, "write": %d, "late": %d, "status": %d, "again": %d, "p50_us": %d, "p99_us": %d, "longest_us": %d}\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.timeout, e.status, again,
    latency:percentile(50), latency:percentile(99), latency.max))
end
