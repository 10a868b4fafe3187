/* ---- table: a function of one variable, for each of its 256 values ---------------------------------------------- */

NOINLINE void table(const int8_t *values, const int8_t *input, int8_t *output, int32_t size)
{
    for (int32_t i = 0; i < size; i++) output[i] = values[input[i] + 128];
}
