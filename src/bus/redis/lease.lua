-- Counts requests of one caller in a window that slides, and gives out leases: requests that are counted before they are made.
--
-- KEYS[1]: a hash. Field: number of a step (a sixtieth of the window), value: what was counted in it. `epoch`: names this
-- memory; it is another once the key was lost. `i` and an instance's name: the step in which it last asked.
-- ARGV: 1 step in milliseconds, 2 steps of a window, 3 limit, 4 requests wanted, 5 requests made and not yet counted,
-- 6 requests given back, 7 the step they were counted in, 8 all that the asker made in the window under way, 9 the epoch
-- that it knows, 10 a name for a new epoch, 11 milliseconds to keep the key for longer than its counts, 12 the asker's name.
-- Gives: requests granted, left, milliseconds until some are counted no more, instances that asked in the window, epoch, step.
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local step_ms, steps = tonumber(ARGV[1]), tonumber(ARGV[2])
local step = math.floor(now / step_ms)
local first = step - steps

local epoch, total, oldest, counts, instances = nil, 0, step, {}, 1
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
    if fields[i] == 'epoch' then
        epoch = fields[i + 1]
    elseif string.sub(fields[i], 1, 1) == 'i' then
        if tonumber(fields[i + 1]) < first then
            redis.call('HDEL', key, fields[i])
        elseif fields[i] ~= 'i' .. ARGV[12] then
            instances = instances + 1
        end
    else
        local at, count = tonumber(fields[i]), tonumber(fields[i + 1])
        if at < first then
            redis.call('HDEL', key, fields[i])
        else
            counts[at] = count
            total = total + count
            if count > 0 and at < oldest then oldest = at end
        end
    end
end

local more
if epoch == ARGV[9] then
    local returned_step = tonumber(ARGV[7])
    local returned = math.min(tonumber(ARGV[6]), counts[returned_step] or 0)
    if returned > 0 then
        redis.call('HINCRBY', key, returned_step, -returned)
        total = total - returned
    end
    more = tonumber(ARGV[5])
else
    -- What the asker made was counted in a memory that is gone, or never.
    more = tonumber(ARGV[8])
end
if not epoch then
    epoch = ARGV[10]
    redis.call('HSET', key, 'epoch', epoch)
end
local granted = math.max(0, math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) - total - more))
if more + granted > 0 then redis.call('HINCRBY', key, step, more + granted) end
total = total + more + granted
redis.call('HSET', key, 'i' .. ARGV[12], step)
redis.call('PEXPIRE', key, (steps + 1) * step_ms + tonumber(ARGV[11]))
return {
    granted, math.max(0, tonumber(ARGV[3]) - total), (oldest + steps + 1) * step_ms - now, instances, epoch,
    step,
}
