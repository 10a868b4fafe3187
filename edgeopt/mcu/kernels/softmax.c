/* ---- softmax: over each row ----------------------------------------------------------------------------------------

   exponentials[255 + q - max] is the numerator of q. Sums and quotients are float32, in the order of the row. */

typedef struct {
    const float *exponentials;
    float factor; /* floor(1 / output scale) */
    int32_t rows, length;
    int8_t out_zero;
} softmax_t;

NOINLINE void softmax(const softmax_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t r = 0; r < layer->rows; r++, input += layer->length, output += layer->length) {
        int32_t most = -128;
        float sum = 0.0f;
        for (int32_t i = 0; i < layer->length; i++) most = larger(most, input[i]);
        for (int32_t i = 0; i < layer->length; i++) sum += layer->exponentials[255 + input[i] - most];
        for (int32_t i = 0; i < layer->length; i++) {
            const float numerator = layer->exponentials[255 + input[i] - most];
            output[i] = saturate(nearest(numerator * layer->factor / sum) + layer->out_zero);
        }
    }
}
