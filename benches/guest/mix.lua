-- Tables, strings, closures and arithmetic; the argument says how often.
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
local result
for _ = 1, tonumber(arg[1]) do
    local t, parts = {}, {}
    for i = 1, 2000 do t[i] = (i * 7919) % 2003 end
    table.sort(t, function(a, b) return a < b end)
    for i = 1, 500 do parts[#parts + 1] = string.format("%d:%s", t[i], ("x"):rep(i % 7)) end
    local text, words = table.concat(parts, " "), 0
    for word in text:gmatch("%d+") do words = words + #word end
    local sum = 0.0
    for i = 1, 5000 do sum = sum + i / (i + 1) end
    result = string.format("%d %d %.6f", words, fib(16), sum)
end
print(result)
