-- Replaces a note, if it still says what was read.
-- KEYS: 1 note
-- ARGV: 1 what it said ('' = there was none), 2 what it shall say ('' = there shall be none)
-- Answer: 1, or 0 if somebody wrote in between.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
