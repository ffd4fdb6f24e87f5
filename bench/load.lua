-- The load that wrk makes, as a plan says: wrk -s load.lua URL -- PLAN
-- A plan is a Lua table: reads = {{method, path, headers}, ...}, every (each so many requests are an upload; 0: none),
-- and of uploads: method, headers (lines), size, filler (a file), names (a file with a path a line), first (a number).
-- The body of an upload is the filler, and a number of 16 digits.

local plan, reads, names, filler, read, sent, uploaded

local function lines_of(file)
    local found = {}
    for line in io.lines(file) do
        found[#found + 1] = line
    end
    return found
end

local function all_of(file)
    local open = assert(io.open(file, "rb"))
    local content = open:read("*a")
    open:close()
    return content
end

function init(arguments)
    plan = dofile(arguments[1])
    reads, read, sent, uploaded = {}, 0, 0, 0
    for _, each in ipairs(plan.reads) do
        reads[#reads + 1] = wrk.format(each[1], each[2], each[3])
    end
    if plan.every > 0 then
        names, filler = lines_of(plan.names), all_of(plan.filler)
    end
end

local function upload()
    uploaded = uploaded + 1
    local name = names[uploaded]
    if name == nil then
        return wrk.format("GET", "/there-were-too-few-names")
    end
    return plan.method .. " " .. name .. " HTTP/1.1\r\nHost: bench\r\n" .. plan.headers .. "Content-Length: " .. plan.size ..
        "\r\n\r\n" .. filler .. string.format("%016d", plan.first + uploaded - 1)
end

function request()
    sent = sent + 1
    if plan.every > 0 and sent % plan.every == 0 then
        return upload()
    end
    read = read % #reads + 1
    return reads[read]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "LOAD requests=%d microseconds=%d bytes=%d p50=%d p99=%d refused=%d failed=%d\n",
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
