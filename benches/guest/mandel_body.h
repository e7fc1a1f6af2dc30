/* The set's iteration counts on a grid of 48 by 48, at most 100 each, one point at a time. */
static uint64_t mandelbrot(void)
{
    enum { SIDE = 48, LIMIT = 100 };
    uint64_t sum = 0;

    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            double cr = x * (3.0 / 64) - 1.75, ci = y * (3.0 / 64) - 1.125, r = 0, i = 0;
            int n = 0;
            while (n < LIMIT && r * r + i * i < 4) {
                double t = r * r - i * i + cr;
                i = 2 * r * i + ci;
                r = t;
                n++;
            }
            sum = sum * 7 + (uint64_t)n;
        }
    return sum;
}
