-- Puts a damaged timeline aside, if it is still the one that was looked at.
-- KEYS: 1 timeline, 2 index, 3 quarantine, 4 floor, 5 and 6 where timeline and index go, 7... rows
-- ARGV: 1 version field expected, 2 head expected ('' = none)
-- Answer: 1, or 0 if somebody wrote in between.
local got = redis.call('HMGET', KEYS[1], 'v', 'h')
if (got[1] or '') ~= ARGV[1] or (got[2] or '') ~= ARGV[2] then return 0 end
for at = 1, 2 do
  if redis.call('EXISTS', KEYS[at]) == 1 then
    redis.call('RENAME', KEYS[at], KEYS[at + 4])
    redis.call('PERSIST', KEYS[at + 4])
  end
  redis.call('SADD', KEYS[3], KEYS[at + 4])
end
local now = redis.call('TIME')
local floor = tonumber(redis.call('GET', KEYS[4]) or '0')
local seen = tonumber((got[1] or ''):match('^%d+') or '0')
if seen > 9007199254740000 then seen = 0 end -- damaged
redis.call('SET', KEYS[4], string.format('%.0f', math.max(floor, seen, now[1] * 1000000 + now[2])))
for at = 7, #KEYS do redis.call('DEL', KEYS[at]) end
return 1
