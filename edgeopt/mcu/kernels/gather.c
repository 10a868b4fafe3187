/* ---- gather: elements from anywhere ----------------------------------------------------------------------------- */

NOINLINE void gather(const int32_t *from, const int8_t *input, int8_t *output, int32_t size, int8_t fill)
{
    for (int32_t i = 0; i < size; i++) output[i] = from[i] < 0 ? fill : input[from[i]];
}
