"""The scripts that Redis runs: a row is written only if none that is newer is there.

Rows are compared by (event time, created time); of two equal ones the later writer's stays,
since it is the same row. Times are compared as two halves of 32 bits, because a Lua number holds
53 bits.

What is stored is not trusted: a key of another type, a section that does not fit, a row of an
unknown layout, one whose lengths do not add up, and one from the future (by Redis' own clock) give
way to the row that is written. Only what Redis itself cannot do (LOADING, OOM, READONLY) is an
error. What costs anything is looked at only where the stored row would win.
"""

_COMMON = """
local WIDTH = {['?'] = 1, i = 4, f = 4, d = 8}
-- The stored value; nil with what to answer where Redis itself is at fault, false where there is
-- none, or none of our type.
local function held(...)
  local old = redis.pcall(...)
  if type(old) ~= 'table' then return old end
  if string.find(old.err, 'WRONGTYPE', 1, true) then return false, nil, true end
  return nil, old
end
-- High and low half of the event time, created time relative to it, what follows the times.
local function times(s, i, last)
  if last < i + 9 then return nil end
  local flags = string.byte(s, i + 2)
  local low, high, at
  if bit.band(flags, 4) == 0 then
    low, high, at = struct.unpack('<I4i3', s, i + 3)
  else
    if last < i + 10 then return nil end
    low, high, at = struct.unpack('<I4i4', s, i + 3)
  end
  local form, created = bit.band(flags, 3), -math.huge
  if form == 1 then
    created = 0
  elseif form == 2 then
    if last < at + 2 then return nil end
    created, at = struct.unpack('<I3', s, at)
  elseif form == 3 then
    if last < at + 7 then return nil end
    local l, h
    l, h, at = struct.unpack('<I4i4', s, at)
    created = (h - high) * 4294967296 + (l - low)
  end
  return high, low, created, at
end
-- The first byte of a section's row and the one behind it; nil where it does not fit.
local function span(s, at, size)
  local length, row = string.byte(s, at + 3), at + 4
  if length == 255 then
    if at + 7 > size then return nil end
    length, row = struct.unpack('<I4', s, at + 4), at + 8
  end
  if not length or row + length > size + 1 then return nil end
  return row, row + length
end
local function upto(h, l, high, low)
  if h ~= high then return h < high end
  return l <= low
end
"""

# ARGV[1..7] of both writing scripts: '' (rows stay), 'event' or 'age' (expiry counts from the
# event or from now); its milliseconds; stored rows up to this event time (high and low half) give
# way whatever they are, '' for none; microseconds that a stored row may be ahead of Redis' clock;
# fingerprints of earlier layouts whose rows are as good; the kinds of the layout's columns, ''
# where nobody says.
_WRITE = (
    _COMMON
    + """
local HEAD = 7
local since, lasting, ahead = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local before, before_low = tonumber(ARGV[3]), tonumber(ARGV[4])
local kinds = ARGV[7]
local function comparable(s, i, t, j)
  local mark = string.sub(s, i, i + 1)
  if mark == string.sub(t, j, j + 1) then return true end
  for at = 1, #ARGV[6], 2 do
    if mark == string.sub(ARGV[6], at, at + 1) then return true end
  end
  return false
end
-- Whether the lengths in a row of our own layout add up to its length.
local function whole(s, i, last)
  local flags, _, _, _, at = string.byte(s, i + 2), times(s, i, last)
  local total, protos = 0, bit.band(flags, 16) ~= 0
  local short = bit.band(flags, 128) ~= 0 and not protos
  local long = ({8, 4, 2, 1})[bit.band(bit.rshift(flags, 5), 3) + 1]
  if bit.band(flags, 8) ~= 0 then at = at + math.floor((#kinds + 7) / 8) end
  for k = 1, #kinds do
    local kind = string.sub(kinds, k, k)
    if protos or kind == 'p' then
      if at + (short and 0 or 3) > last then return false end
      if short then
        total, at = total + string.byte(s, at), at + 1
      else
        total, at = total + struct.unpack('<I4', s, at), at + 4
      end
    else
      at = at + (kind == 'q' and long or WIDTH[kind])
    end
  end
  return at + total == last + 1
end
-- Whether the new row s replaces the stored one t[j .. last].
local function wins(s, i, t, j, last)
  local h, l, c = times(s, i, #s)
  local oh, ol, oc = times(t, j, last)
  if not oh or not comparable(t, j, s, i) then return true end
  if h > oh or h == oh and (l > ol or l == ol and c >= oc) then return true end
  if before and upto(oh, ol, before, before_low) then return true end
  local t_now = redis.call('TIME')
  local limit = t_now[1] * 1000000 + t_now[2] + ahead
  local stored = oh * 4294967296 + ol
  if stored > limit or stored + oc > limit then return true end
  if kinds == '' or string.sub(t, j, j + 1) ~= string.sub(s, i, i + 1) then return false end
  return not whole(t, j, last)
end
local function expiry(s, i)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  if since == 'age' then return now + lasting end
  local h, l = times(s, i, #s)
  return math.floor((h * 4294967296 + l) / 1000) + lasting, now
end
"""
)

# KEYS: an entity's string, for each row. ARGV: as above, then a section for each key.
# A string that holds a section which stays, stays; else the latest expiry counts.
WRITE_SECTIONS = (
    _WRITE
    + """
-- What follows a section that is replaced, without a second one of its tag or a part cut short.
local function rest(s, at, size, tag)
  local from, kept = at, nil
  while at <= size do
    local row, after = span(s, at, size)
    local again = row and string.sub(s, at, at + 2) == tag
    if again or not row then
      kept = (kept or '') .. string.sub(s, from, at - 1)
      from = after or size + 1
    end
    at = after or size + 1
  end
  if kept then return kept .. string.sub(s, from) end
  return string.sub(s, from)
end
local written = 0
for n = 1, #KEYS do
  local key, new = KEYS[n], ARGV[n + HEAD]
  local old, failed = held('GET', key)
  if failed then return failed end
  local value = new
  if old then
    local tag, at, size = string.sub(new, 1, 3), 1, #old
    value = nil
    while at <= size do
      local row, after = span(old, at, size)
      if not row then
        value = string.sub(old, 1, at - 1) .. new
        break
      end
      if string.sub(old, at, at + 2) == tag then
        if wins(new, span(new, 1, #new), old, row, after - 1) then
          value = string.sub(old, 1, at - 1) .. new
          if after <= size then value = value .. rest(old, after, size, tag) end
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
    if since == '' then
      redis.call('SET', key, value)
    else
      local till, left = expiry(new, (span(new, 1, #new))), old and redis.call('PTTL', key)
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
    _WRITE
    + """
local written = 0
for n = 1, #KEYS do
  local key, field, new = KEYS[n], ARGV[2 * n + HEAD - 1], ARGV[2 * n + HEAD]
  local old, failed, foreign = held('HGET', key, field)
  if failed then return failed end
  if foreign then redis.call('DEL', key) end
  if not old or wins(new, 1, old, 1, #old) then
    redis.call('HSET', key, field, new)
    written = written + 1
    if since ~= '' then
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

# KEYS: entities' strings. ARGV: event time (high and low half) up to which sections are taken
# out, '' for all; their tags. Returns how many there were. What is cut short goes as well.
DROP_SECTIONS = (
    _COMMON
    + """
local drop, dropped = {}, 0
local high, low = tonumber(ARGV[1]), tonumber(ARGV[2])
for n = 3, #ARGV do drop[ARGV[n]] = true end
for n = 1, #KEYS do
  local old, failed = held('GET', KEYS[n])
  if failed then return failed end
  if old then
    local keep, at, size = {}, 1, #old
    while at <= size do
      local row, after = span(old, at, size)
      if not row then break end
      local gone = drop[string.sub(old, at, at + 2)]
      if gone and high then
        local h, l = times(old, row, after - 1)
        gone = not h or upto(h, l, high, low)
      end
      if gone then
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

# KEYS: a hash, for each field. ARGV: event time (high and low half) up to which rows are taken
# out, then the fields. Returns how many there were.
DROP_FIELDS = (
    _COMMON
    + """
local dropped = 0
local high, low = tonumber(ARGV[1]), tonumber(ARGV[2])
for n = 1, #KEYS do
  local old, failed = held('HGET', KEYS[n], ARGV[n + 2])
  if failed then return failed end
  if old then
    local h, l = times(old, 1, #old)
    if not h or upto(h, l, high, low) then
      dropped = dropped + redis.call('HDEL', KEYS[n], ARGV[n + 2])
    end
  end
end
return dropped
"""
)

# KEYS: the hash of marks. ARGV: field, epoch (32 letters), number, 'first' where there may be no
# mark yet, 'new' where whatever is there is replaced. A mark of this epoch never goes back.
# Returns 1, or 0 where another history's mark is there, or none.
ADVANCE_MARK = (
    _COMMON
    + """
local old, failed, foreign = held('HGET', KEYS[1], ARGV[1])
if failed then return failed end
if ARGV[4] ~= 'new' then
  if not old and ARGV[4] ~= 'first' then return 0 end
  if old then
    if string.sub(old, 1, 32) ~= ARGV[2] then return 0 end
    if (tonumber(string.sub(old, 34)) or 0) >= tonumber(ARGV[3]) then return 1 end
  end
end
if foreign then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
return 1
"""
)
