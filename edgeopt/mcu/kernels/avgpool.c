/* The mean of each window, summed in float in the order of the window as onnxruntime does. */
NOINLINE void avgpool(const pool_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels;
    for (int32_t y = 0; y < layer->out_height; y++)
        for (int32_t x = 0; x < layer->out_width; x++) {
            const int32_t top = y * layer->stride_y - layer->pad_top, left = x * layer->stride_x - layer->pad_left;
            const int32_t y0 = larger(top, 0), y1 = smaller(top + layer->kernel_height, layer->in_height);
            const int32_t x0 = larger(left, 0), x1 = smaller(left + layer->kernel_width, layer->in_width);
            const int32_t whole = layer->kernel_height * layer->kernel_width;
            const int32_t count = layer->count_padding ? whole : (y1 - y0) * (x1 - x0);
            for (int32_t c = 0; c < channels; c++) {
                float sum = 0.0f;
                for (int32_t iy = y0; iy < y1; iy++)
                    for (int32_t ix = x0; ix < x1; ix++) {
                        const int32_t q = input[(iy * layer->in_width + ix) * channels + c];
                        sum += layer->in_scale * (float)(q - layer->in_zero);
                    }
                sum = sum / (float)count / layer->out_scale + (float)layer->out_zero;
                *output++ = saturate(nearest(sum));
            }
        }
}
