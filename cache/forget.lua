-- Removes keys of one user if the timeline is still the one that was looked at.
-- KEYS: 1 timeline, 2 index, 3 quarantine, 4 floor, 5... everything else of this user
-- ARGV: 1 version field expected, 2 head expected ('' = none), 3 quarantined timelines expected
-- Answer: 1, or 0 if somebody wrote in between.
local got = redis.call('HMGET', KEYS[1], 'v', 'h')
if (got[1] or '') ~= ARGV[1] or (got[2] or '') ~= ARGV[2] then return 0 end
if redis.call('SCARD', KEYS[3]) ~= tonumber(ARGV[3]) then return 0 end

-- No later version may repeat one of a user that is forgotten; the floor names nobody.
if got[1] or got[2] then
  local now = redis.call('TIME')
  local floor = tonumber(redis.call('GET', KEYS[4]) or '0')
  local seen = tonumber((got[1] or ''):match('^%d+') or '0')
  if seen > 9007199254740000 then seen = 0 end -- damaged
  redis.call('SET', KEYS[4], string.format('%.0f', math.max(floor, seen, now[1] * 1000000 + now[2])))
end
for at = 1, #KEYS do
  if at ~= 4 then redis.call('DEL', KEYS[at]) end
end
return 1
