/* ---- move: elements from nested strides to nested strides; what is not written holds `fill` --------------------- */

typedef struct {
    int32_t size, first_to, first_from;
    int32_t count[MOVE_DEPTH], to[MOVE_DEPTH], from[MOVE_DEPTH]; /* outermost first */
    int8_t fill, filled;
} move_t;

NOINLINE void move(const move_t *layer, const int8_t *input, int8_t *output)
{
    int32_t at[MOVE_DEPTH] = {0}, to = layer->first_to, from = layer->first_from, depth;
    const int32_t last = MOVE_DEPTH - 1, inner = layer->count[last];
    if (layer->filled) memset(output, layer->fill, (size_t)layer->size);
    do {
        for (int32_t i = 0; i < inner; i++) output[to + i * layer->to[last]] = input[from + i * layer->from[last]];
        for (depth = last - 1; depth >= 0; depth--) { /* on to the next place, like an odometer */
            to += layer->to[depth], from += layer->from[depth];
            if (++at[depth] < layer->count[depth]) break;
            to -= layer->count[depth] * layer->to[depth], from -= layer->count[depth] * layer->from[depth];
            at[depth] = 0;
        }
    } while (depth >= 0);
}
