/* Any window, one product at a time. The other kernels are for most windows only. */
SOME_MODELS void depthwise_any(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t output_row)
{
    const int32_t height = layer->kernel_height, width = layer->kernel_width, next = layer->dilation_x;
    const int32_t down = layer->dilation_y * layer->row - width * next, channels = layer->out_channels;
    const int8_t *const weights = layer->weights + channel * height * width;
    for (int32_t y = 0; y < layer->out_height; y++, output += output_row) {
        const plane_t *window = plane + y * layer->stride_y * layer->row;
        for (int32_t x = 0; x < layer->out_width; x++, window += layer->stride_x) {
            const plane_t *data = window;
            const int8_t *w = weights;
            int32_t sum = layer->bias[channel];
            for (int32_t ky = height; ky > 0; ky--, data += down)
                for (int32_t kx = width; kx > 0; kx--, data += next) sum += *data * *w++;
            output[x * channels] = depthwise_result(sum, layer->scale[channel], layer->out_zero);
        }
    }
}

#if !defined(KERNELS_DSP) && !defined(KERNELS_HELIUM)
#define depthwise_three_1 depthwise_any
#define depthwise_three_2 depthwise_any
#define depthwise_five_1 depthwise_any
#define depthwise_five_2 depthwise_any
#endif
#if !defined(KERNELS_HELIUM)
#define depthwise_wide_1 depthwise_any
#define depthwise_wide_2 depthwise_any
#endif
