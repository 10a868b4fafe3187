/* ---- grouped: convolutions in groups, depthwise ones among them, straight from the image ------------------------ */

typedef struct {
    const int8_t *weights; /* [out channels][kernel height][kernel width][in channels / groups] */
    const int32_t *bias;   /* without the input's zero point: padding is skipped */
    const float *scale;
    uint16_t in_height, in_width, in_channels;
    uint16_t out_height, out_width, out_channels;
    uint16_t groups;
    uint8_t kernel_height, kernel_width, dilation_y, dilation_x, stride_y, stride_x, pad_top, pad_left;
    int8_t in_zero, out_zero;
} grouped_t;

NOINLINE void grouped(const grouped_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t inside = layer->in_channels / layer->groups, outside = layer->out_channels / layer->groups;
    const int32_t kernel = layer->kernel_height * layer->kernel_width * inside;
    for (int32_t y = 0; y < layer->out_height; y++)
        for (int32_t x = 0; x < layer->out_width; x++)
            for (int32_t c = 0; c < layer->out_channels; c++) {
                const int8_t *weights = layer->weights + c * kernel;
                int32_t sum = layer->bias[c];
                for (int32_t ky = 0; ky < layer->kernel_height; ky++)
                    for (int32_t kx = 0; kx < layer->kernel_width; kx++, weights += inside) {
                        const int32_t iy = y * layer->stride_y - layer->pad_top + ky * layer->dilation_y;
                        const int32_t ix = x * layer->stride_x - layer->pad_left + kx * layer->dilation_x;
                        const int8_t *data;
                        if (iy < 0 || iy >= layer->in_height || ix < 0 || ix >= layer->in_width) continue;
                        data = input + (iy * layer->in_width + ix) * layer->in_channels + c / outside * inside;
                        for (int32_t i = 0; i < inside; i++) sum += (data[i] - layer->in_zero) * weights[i];
                    }
                *output++ = saturate(nearest_scaled(sum, layer->scale[c]) + layer->out_zero);
            }
}
