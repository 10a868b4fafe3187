/* ---- concat: `length` elements of an input into every `row` of the output, through a table if there is one --------- */

NOINLINE void concat(
    const int8_t *values, const int8_t *input, int8_t *output, int32_t rows, int32_t length, int32_t row)
{
    for (; rows > 0; rows--, input += length, output += row)
        for (int32_t i = 0; i < length; i++) output[i] = values ? values[input[i] + 128] : input[i];
}
