-- `wrk -s load.lua URL/path -- BODIES`: requests have the lines of a file as their bodies, in turns; prints a line of JSON.
local requests, place, threads = {}, 0, {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  refused = 0
  for line in io.lines(args[1]) do
    table.insert(requests, wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line))
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function response(status)
  if status == 429 then refused = refused + 1 end
end

function done(summary, latency)
  local refusals, errors = 0, summary.errors
  for _, thread in ipairs(threads) do refusals = refusals + thread:get("refused") end
  local wrong = errors.status - refusals + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "refused": %d, "errors": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, refusals, wrong,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
