-- Reads what one user's snapshot is made of, newest chunks first, in one round trip.
-- KEYS: 1 timeline, 2 index, 3 quarantine, 4 rows (optional)
-- ARGV: 1 events to read, 2 first key that is too new ('' = none), 3 reach of the rows,
--       4 events a timeline keeps, 5... order keys of events about to be merged
-- Answer: version, head, is quarantined, first bound, newer events,
--         tail bounds, tail chunks, tail rows, other bounds, other chunks, summary;
--         where a timeline was lost, its index or rows being there still, the first bound is '?'
local count_at = 5 -- where every value keeps its count: see codec.py

local function count(value)
  if not value or #value < 8 then return 0 end
  return (struct.unpack('<I4', value, count_at))
end

local got = redis.call('HMGET', KEYS[1], 'v', 'h')
local quarantined = redis.call('EXISTS', KEYS[3])
if not got[2] then
  local left = redis.call('EXISTS', KEYS[2], KEYS[4] or KEYS[2])
  return {got[1], got[2], quarantined, left > 0 and '?' or '', 0, {}, {}, {}, {}, {}}
end

local limit, stop, reach, keep = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
if not first then -- the index was evicted by itself; the fields of the timeline are its bounds
  for _, bound in ipairs(redis.call('HKEYS', KEYS[1])) do
    if #bound > 1 then redis.call('ZADD', KEYS[2], 0, bound) end
  end
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
  first = redis.call('ZRANGE', KEYS[2], 0, 0)[1] or ''
end
local known = {}

-- How much lies behind the part that is asked for: rows are kept for the newest events only.
local newer, offset = 0, 0
if stop ~= '' then
  local later = redis.call('ZLEXCOUNT', KEYS[2], '[' .. stop, '+')
  while offset < later and newer < math.max(reach, 1) do
    local bound = redis.call('ZREVRANGE', KEYS[2], offset, offset)[1]
    newer = newer + math.max(count(redis.call('HGET', KEYS[1], bound)), 1)
    offset = offset + 1
  end
  offset = later
end

-- The tail. A chunk that `stop` cuts may hold any number of events before it: it counts for none.
local function is_cut(value)
  local last = 28 + 8 * (count(value) - 1) -- where the newest timestamp is: see codec.py
  if stop == '' or not value or #value < last + 8 then return false end
  return struct.unpack('<i8', value, last + 1) >= struct.unpack('>I8', stop)
end

local bounds, chunks, rows = {}, {}, {}
local seen, step = 0, math.floor(limit / 32) + 3
while seen < limit do
  local page = redis.call('ZREVRANGE', KEYS[2], offset, offset + step - 1)
  if #page == 0 then break end
  for _, bound in ipairs(page) do
    local value = redis.call('HGET', KEYS[1], bound)
    local at = #bounds + 1
    bounds[at], chunks[at], known[bound] = bound, value, true
    if KEYS[4] then rows[at] = redis.call('HGET', KEYS[4], bound) end
    if at > 1 or not is_cut(value) then seen = seen + count(value) end
    if seen >= limit then break end
  end
  offset = offset + #page
end

-- What a merge touches besides: the chunks that events fall into, and the front if it overflows.
local others, values = {}, {}
local function also(bound)
  if not bound or known[bound] then return end
  known[bound] = true
  others[#others + 1], values[#values + 1] = bound, redis.call('HGET', KEYS[1], bound)
end
local excess = count(got[2]) + #ARGV - 4 - keep
for at = 5, #ARGV do
  local floor = redis.call('ZREVRANGEBYLEX', KEYS[2], '[' .. ARGV[at], '-', 'LIMIT', 0, 1)[1]
  if floor then
    also(floor)
  elseif first ~= '' then
    also(first)
  end
end
if #ARGV > 4 then
  local rank = 0
  while excess > 0 do
    local bound = redis.call('ZRANGE', KEYS[2], rank, rank)[1]
    if not bound then break end
    also(bound)
    excess = excess - math.max(count(redis.call('HGET', KEYS[1], bound)), 1)
    rank = rank + 1
  end
end
local summary = KEYS[4] and redis.call('HGET', KEYS[4], '\255')
return {got[1], got[2], quarantined, first, newer, bounds, chunks, rows, others, values, summary}
