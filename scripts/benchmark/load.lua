-- What wrk sends. From the environment: KIND, HEADER ("name: value" that goes along), SALT (a number: other prompts).
--   small          80-byte prompts to /generate, 200 of them
--   long           16 KB to /generate: 50 prefixes of 8 KB, each with 20 endings of 8 KB
--   chat           the same as long, as system and user message of /v1/chat/completions
--   stream         80-byte prompts, answered by 64 events
--   repeated-SIZE  20 prompts of SIZE bytes to /generate
--   fresh-SIZE     prompts of SIZE bytes to /generate, no two of which begin alike

local kind, size = os.getenv("KIND"):match("^(%a+)-?(%d*)$")
size = tonumber(size)
local path = kind == "chat" and "/v1/chat/completions" or "/generate"
local header = os.getenv("HEADER")

math.randomseed(1)
local words = {}
for i = 1, 2000 do
  local letters = {}
  for j = 1, math.random(2, 9) do letters[j] = string.char(96 + math.random(26)) end
  words[i] = table.concat(letters)
end

local function text(length)
  local parts, sum = {}, 0
  while sum <= length do
    local word = words[math.random(#words)]
    parts[#parts + 1], sum = word, sum + #word + 1
  end
  return table.concat(parts, " "):sub(1, length)
end

local function post(body)
  return "POST " .. path .. " HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    .. (header and header .. "\r\n" or "") .. "content-length: " .. #body .. "\r\n\r\n" .. body
end

local function generate(prompt) return post('{"text":"' .. prompt .. '","sampling_params":{"max_new_tokens":8}}') end

local function repeated(count, make)
  local requests = {}
  for i = 1, count do requests[i] = make(i) end
  local n = 0
  return function()
    n = n % count + 1
    return requests[n]
  end
end

local function prefixed(make)
  local prefixes = {}
  for i = 1, 50 do prefixes[i] = text(8192) end
  return repeated(1000, function(i) return make(prefixes[i % 50 + 1], text(8192)) end)
end

local kinds = {
  small = function() return repeated(200, function() return generate(text(80)) end) end,
  stream = function()
    return repeated(200, function() return post('{"text":"' .. text(57) .. ' events=64 interval_ms=0","stream":true}') end)
  end,
  long = function() return prefixed(function(a, b) return generate(a .. " " .. b) end) end,
  chat = function()
    return prefixed(function(a, b)
      return post('{"model":"stand-in","messages":[{"role":"system","content":"' .. a
        .. '"},{"role":"user","content":"' .. b .. '"}],"max_tokens":8}')
    end)
  end,
  repeated = function() return repeated(20, function() return generate(text(size)) end) end,
  fresh = function()  -- 16 random letters, then words that all share: what begins otherwise is another prompt
    local whole = generate(text(size))
    local start = whole:find('{"text":"', 1, true) + 8
    local before, after = whole:sub(1, start), whole:sub(start + 17)
    math.randomseed(tonumber(os.getenv("SALT") or 1))
    return function()
      local letters = {}
      for i = 1, 16 do letters[i] = math.random(97, 122) end
      return before .. string.char(unpack(letters)) .. after
    end
  end,
}

function init() request = kinds[kind]() end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"p50_us":%d,"p99_us":%d,"failed":%d,"refused":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
