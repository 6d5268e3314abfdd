-- Writes one app's changes, or none of them.
--
-- KEYS  1 app hash  2 index of apps  3 hostnames  4 version counter  5 change stream
--       6 memory reserved by node  7 capacity by node  8 history of the app's policy
-- ARGV  1 app  2 version it was read at ("0": absent)  3 highest version that the writer has seen
--       4 identity of this write  5 "delete" or ""
--       then six lists, each a count and its elements:
--       hostnames to claim, hostnames to release, fields and values to set, fields to remove,
--       of each node whose reserved memory changes: its name, the change in bytes, and
--       "new" where an instance is new there, so that the node must have room for it,
--       and changes of the policy to remember
-- Returns {"ok", version} when written; {"done", version} when a write of this identity was
-- written before; {"conflict", version} when the app has another version; {"taken", hostname, app};
-- {"full", node, reserved, capacity}.
local app, expected, floor, identity = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local at = 6
local function list()
  local n = tonumber(ARGV[at])
  local out = {}
  for i = 1, n do out[i] = ARGV[at + i] end
  at = at + n + 1
  return out
end
local claim, release, set, drop, reserve, edits = list(), list(), list(), list(), list(), list()

local version = redis.call('HGET', KEYS[1], 'v') or '0'
local writes = redis.call('HGET', KEYS[1], 'w') or ''
if string.find(writes, identity, 1, true) then
  return {'done', version}
end
if version ~= expected then
  return {'conflict', version}
end
for _, host in ipairs(claim) do
  local owner = redis.call('HGET', KEYS[3], host)
  if owner and owner ~= app then
    return {'taken', host, owner}
  end
end
for i = 1, #reserve, 3 do
  if reserve[i + 2] == 'new' then
    local have = redis.call('HGET', KEYS[6], reserve[i]) or '0'
    local capacity = redis.call('HGET', KEYS[7], reserve[i]) or '0'
    if tonumber(capacity) > 0 and tonumber(have) + tonumber(reserve[i + 1]) > tonumber(capacity) then
      return {'full', reserve[i], have, capacity}
    end
  end
end

local last = redis.call('GET', KEYS[4]) or '0'
local next = string.format('%.0f', math.max(tonumber(last), tonumber(version), floor) + 1)

-- The stream first: it is the only command here that can be refused for what
-- is stored, and a script that fails keeps what it did before.
if ARGV[5] == 'delete' then
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, next .. '-0', 'app', app, 'prev', last, 'gone', '1')
else
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, next .. '-0', 'app', app, 'prev', last)
end
redis.call('SET', KEYS[4], next)
for i = 1, #reserve, 3 do
  if redis.call('HINCRBY', KEYS[6], reserve[i], reserve[i + 1]) == 0 then
    redis.call('HDEL', KEYS[6], reserve[i])
  end
end
for _, host in ipairs(release) do
  if redis.call('HGET', KEYS[3], host) == app then
    redis.call('HDEL', KEYS[3], host)
  end
end
if ARGV[5] == 'delete' then
  redis.call('DEL', KEYS[1], KEYS[8])
  redis.call('HDEL', KEYS[2], app)
  return {'ok', next}
end
for _, host in ipairs(claim) do
  redis.call('HSET', KEYS[3], host, app)
end
for _, field in ipairs(drop) do
  redis.call('HDEL', KEYS[1], field)
end
for i = 1, #set, 2 do
  redis.call('HSET', KEYS[1], set[i], set[i + 1])
end
for _, edit in ipairs(edits) do
  redis.call('LPUSH', KEYS[8], edit)
  redis.call('LTRIM', KEYS[8], 0, 99)
end
redis.call('HSET', KEYS[1], 'v', next, 'w', string.sub(identity .. writes, 1, 128))
redis.call('HSET', KEYS[2], app, next)
return {'ok', next}
