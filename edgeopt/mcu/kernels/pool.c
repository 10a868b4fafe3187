/* ---- pools ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint16_t in_height, in_width, out_height, out_width, channels;
    uint8_t kernel_height, kernel_width, dilation_y, dilation_x, stride_y, stride_x, pad_top, pad_left;
    uint8_t count_padding;
    int8_t in_zero, out_zero;
    float in_scale, out_scale;
} pool_t;

