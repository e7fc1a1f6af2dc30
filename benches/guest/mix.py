# Dictionaries, lists, strings, classes and arithmetic; the argument says how often.
import sys


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def moved(self, by):
        return Point(self.x + by, self.y - by)


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


for _ in range(int(sys.argv[1])):
    numbers = sorted((i * 7919) % 2003 for i in range(2000))
    seen = {}
    for word in " ".join(f"{n % 37}:{n}" for n in numbers[:800]).split():
        key = word.split(":")[0]
        seen[key] = seen.get(key, 0) + len(word)
    point = Point(0, 0)
    for i in range(1500):
        point = point.moved(i % 3)
    result = (sum(seen.values()), fib(14), point.x, point.y, f"{sum(i / (i + 1) for i in range(3000)):.6f}")
print(*result)
