-- This replica lives; which of those that it waits for do not?
-- ARGV  1 replica  2 ms  then replicas
redis.call('SET', P .. 'alive:' .. ARGV[1], 1, 'PX', ARGV[2])
local dead = {}
for i = 3, #ARGV do
  if redis.call('EXISTS', P .. 'alive:' .. ARGV[i]) == 0 then dead[#dead + 1] = ARGV[i] end
end
return dead
