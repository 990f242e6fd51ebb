-- Stores one change of one user: checks the version, writes, trims and expires, all or nothing.
-- KEYS: 1 timeline, 2 index, 3 floor, then this writer's rows if ARGV[6] is '1',
--       then rows of other fingerprints that are untrue now
-- ARGV: 1 version field expected ('' = none), 2 head ('' = the timeline stays),
--       3 '1' = wipe what is left of an earlier timeline, 4 expiry of the timeline (unix ms, 0 = never),
--       5 time to live of the rows (ms), 6 '1' = there are rows, 7 '1' = remove them all first,
--       8 bound before which rows are out of reach ('' = unknown), 9 row chunks within reach,
--       10 to 13: how many chunks to drop, chunks to put, rows to drop, rows to put follow,
--       14 how many order keys follow behind those: of this many chunks (15), from the one on in
--       which the key lies, the rows are untrue
-- Answer: the version, or false if the user is at another or has to be read again.
local expected = ARGV[1]
if (redis.call('HGET', KEYS[1], 'v') or '') ~= expected then return false end
-- An index that was evicted since is made again by the next fetch.
if expected ~= '' and redis.call('EXISTS', KEYS[2]) == 0 then return false end

local version = expected:match('^%d+')
local next_argument = 16

local function take()
  next_argument = next_argument + 1
  return ARGV[next_argument - 1]
end

-- Lua compares strings by locale; bounds are bytes.
local function is_before(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = a:byte(at), b:byte(at)
    if x ~= y then return x < y end
  end
  return #a < #b
end

if ARGV[3] == '1' then redis.call('DEL', KEYS[1], KEYS[2]) end
for _ = 1, tonumber(ARGV[10]) do
  local bound = take()
  redis.call('HDEL', KEYS[1], bound)
  redis.call('ZREM', KEYS[2], bound)
end
for _ = 1, tonumber(ARGV[11]) do
  local bound, value = take(), take()
  redis.call('HSET', KEYS[1], bound, value)
  redis.call('ZADD', KEYS[2], 0, bound)
end
if ARGV[2] ~= '' then
  local now = redis.call('TIME')
  local floor = tonumber(redis.call('GET', KEYS[3]) or '0')
  local number = math.max(now[1] * 1000000 + now[2], tonumber(version or '0') + 1, floor + 1)
  version = string.format('%.0f', number)
  local seal = redis.sha1hex(version .. KEYS[1]):sub(1, 16) -- as codec.py: encode_version
  redis.call('HSET', KEYS[1], 'v', version .. ':' .. seal, 'h', ARGV[2])
  if ARGV[4] ~= '0' then
    redis.call('PEXPIREAT', KEYS[1], ARGV[4])
    redis.call('PEXPIREAT', KEYS[2], ARGV[4])
  end
end

local others = 4
if ARGV[6] == '1' then
  others = 5
  local rows = KEYS[4]
  if ARGV[7] == '1' then redis.call('DEL', rows) end
  for _ = 1, tonumber(ARGV[12]) do redis.call('HDEL', rows, take()) end
  local put = next_argument
  next_argument = put + 2 * tonumber(ARGV[13])
  for _ = 1, tonumber(ARGV[14]) do
    local floor = redis.call('ZREVRANGEBYLEX', KEYS[2], '[' .. take(), '-', 'LIMIT', 0, 1)[1]
    local from = floor and '[' .. floor or '-'
    for _, bound in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, ARGV[15])) do
      redis.call('HDEL', rows, bound)
    end
  end
  next_argument = put
  for _ = 1, tonumber(ARGV[13]) do
    local bound, value = take(), take()
    redis.call('HSET', rows, bound, value)
  end
  if ARGV[8] ~= '' and redis.call('HLEN', rows) > tonumber(ARGV[9]) then
    for _, bound in ipairs(redis.call('HKEYS', rows)) do
      if is_before(bound, ARGV[8]) then redis.call('HDEL', rows, bound) end
    end
  end
  redis.call('PEXPIRE', rows, ARGV[5])
end
for at = others, #KEYS do redis.call('DEL', KEYS[at]) end
return version
