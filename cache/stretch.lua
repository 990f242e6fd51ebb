-- Reads whole chunks of one user's timeline, oldest first, from the one that holds a key.
-- KEYS: 1 timeline, 2 index
-- ARGV: 1 order key to begin with ('' = the first), 2 chunks to read
-- Answer: version, head, bounds, chunks, is there more
local got = redis.call('HMGET', KEYS[1], 'v', 'h')
local from = '-'
if ARGV[1] ~= '' then
  local floor = redis.call('ZREVRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '-', 'LIMIT', 0, 1)[1]
  if floor then from = '[' .. floor end
end
local most = tonumber(ARGV[2])
local bounds = redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, most + 1)
local more = 0
if #bounds > most then
  more = 1
  bounds[#bounds] = nil
end
local chunks = {}
for at = 1, #bounds do chunks[at] = redis.call('HGET', KEYS[1], bounds[at]) end
return {got[1], got[2], bounds, chunks, more}
