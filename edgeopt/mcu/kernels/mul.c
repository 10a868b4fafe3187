/* ---- mul: the product of two tensors; `b` may be shorter and repeat (a factor for each channel) ---------------------- */

typedef struct {
    float scale;
    int32_t size, period; /* elements of a, of b */
    int8_t a_zero, b_zero, out_zero;
} mul_t;

NOINLINE void mul(const mul_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const float zero = layer->out_zero;
    for (int32_t done = 0; done < layer->size; done += layer->period)
        for (int32_t i = 0; i < layer->period; i++) {
            const float product = (float)((*a++ - layer->a_zero) * (b[i] - layer->b_zero)) * layer->scale;
            *output++ = saturate(nearest(product + zero));
        }
}
