"""The scripts that Redis runs: a row is written only if none that is newer is there.

Rows are compared by (event time, created time); of two equal ones the later writer's stays,
since it is the same row. A row of another layout always gives way. Times are compared as two
halves of 32 bits, because a Lua number holds 53 bits.
"""

_COMMON = """
local function times(s, i)
  local flags = string.byte(s, i + 2)
  local low, high, at
  if bit.band(flags, 4) == 0 then
    low, high, at = struct.unpack('<I4i3', s, i + 3)
  else
    low, high, at = struct.unpack('<I4i4', s, i + 3)
  end
  local form, created = bit.band(flags, 3), -math.huge
  if form == 1 then
    created = 0
  elseif form == 2 then
    created = struct.unpack('<I3', s, at)
  elseif form == 3 then
    local l, h = struct.unpack('<I4i4', s, at)
    created = (h - high) * 4294967296 + (l - low)
  end
  return high, low, created
end
local function wins(s, i, t, j)
  if string.sub(s, i, i + 1) ~= string.sub(t, j, j + 1) then return true end
  local h, l, c = times(s, i)
  local oh, ol, oc = times(t, j)
  if h ~= oh then return h > oh end
  if l ~= ol then return l > ol end
  return c >= oc
end
local function span(s, at)
  local length = string.byte(s, at + 3)
  if length < 255 then return at + 4, at + 4 + length end
  return at + 8, at + 8 + struct.unpack('<I4', s, at + 4)
end
local function expiry(s, i)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  if ARGV[1] == 'age' then return now + tonumber(ARGV[2]) end
  local h, l = times(s, i)
  return math.floor((h * 4294967296 + l) / 1000) + tonumber(ARGV[2]), now
end
"""

# KEYS: an entity's string, for each row. ARGV: '' (rows stay), 'event' or 'age' (expiry counts
# from the event or from now), milliseconds, then a section for each key.
# A string that holds a section which stays, stays; else the latest expiry counts.
WRITE_SECTIONS = (
    _COMMON
    + """
local written = 0
for n = 1, #KEYS do
  local key, new = KEYS[n], ARGV[n + 2]
  local old = redis.call('GET', key)
  local value = new
  if old then
    local tag, at, size = string.sub(new, 1, 3), 1, #old
    value = nil
    while at <= size do
      local row, after = span(old, at)
      if string.sub(old, at, at + 2) == tag then
        if wins(new, span(new, 1), old, row) then
          value = string.sub(old, 1, at - 1) .. new .. string.sub(old, after)
        else
          value = false
        end
        break
      end
      at = after
    end
    if value == nil then value = old .. new end
  end
  if value then
    written = written + 1
    if ARGV[1] == '' then
      redis.call('SET', key, value)
    else
      local till, left = expiry(new, span(new, 1)), old and redis.call('PTTL', key)
      local alone = not old or #value == #new
      redis.call('SET', key, value)
      if alone or left ~= -1 then
        if not alone and left > 0 then
          local t = redis.call('TIME')
          till = math.max(till, t[1] * 1000 + math.floor(t[2] / 1000) + left)
        end
        redis.call('PEXPIREAT', key, string.format('%.0f', till))
      end
    end
  end
end
return written
"""
)

# KEYS: the hash, for each row. ARGV as above, then field and row for each key.
WRITE_FIELDS = (
    _COMMON
    + """
local written = 0
for n = 1, #KEYS do
  local key, field, new = KEYS[n], ARGV[2 * n + 1], ARGV[2 * n + 2]
  local old = redis.call('HGET', key, field)
  if not old or wins(new, 1, old, 1) then
    redis.call('HSET', key, field, new)
    written = written + 1
    if ARGV[1] ~= '' then
      local till, left = expiry(new, 1), redis.call('PTTL', key)
      if left > 0 then
        local t = redis.call('TIME')
        till = math.max(till, t[1] * 1000 + math.floor(t[2] / 1000) + left)
      end
      redis.call('PEXPIREAT', key, string.format('%.0f', till))
    end
  end
end
return written
"""
)

# KEYS: entities' strings. ARGV: tags of sections to take out. Returns how many were there.
DROP_SECTIONS = (
    _COMMON
    + """
local drop, dropped = {}, 0
for n = 1, #ARGV do drop[ARGV[n]] = true end
for n = 1, #KEYS do
  local old = redis.call('GET', KEYS[n])
  if old then
    local keep, at, size = {}, 1, #old
    while at <= size do
      local _, after = span(old, at)
      if drop[string.sub(old, at, at + 2)] then
        dropped = dropped + 1
      else
        keep[#keep + 1] = string.sub(old, at, after - 1)
      end
      at = after
    end
    local value = table.concat(keep)
    if #value == 0 then
      redis.call('DEL', KEYS[n])
    elseif #value < size then
      redis.call('SET', KEYS[n], value, 'KEEPTTL')
    end
  end
end
return dropped
"""
)
