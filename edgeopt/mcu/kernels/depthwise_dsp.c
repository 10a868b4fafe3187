#if defined(KERNELS_DSP)

/* Windows of up to 3 or 5 columns, 8 or 4 neighbouring outputs at a time.

   A word of the plane is a pair of neighbours. The three weights of a row lie in two words, (w0, w1) and (w1, w2), so that
   each output takes two instructions a row, wherever its window begins:

     at an even column   (w0, w1) * (d0, d1)    w2 * d2          SMLAD, SMLABT
     at an odd one       w0 * d1                (w1, w2) * (d2, d3)   SMLATB, SMLAD

   For 8 outputs, 72 multiplications, that is 66 instructions and 12 to get from row to row; all 14 registers are taken.
   With stride 2 every window begins at an even column.

   For 5 columns there are words for windows at even columns, (w0, w1) (w2, w3) (w4, 0), and for those at odd ones, (0, w0)
   (w1, w2) (w3, w4): of each row they are read one pair after the other, and every word of the plane three times. */

#define ODD_EVEN(even, odd) "smlad %[" even "], %[d], %[w01], %[" even "]\n\t smlatb %[" odd "], %[d], %[w01], %[" odd "]\n\t"
#define EVEN_ODD(even, odd) "smlabt %[" even "], %[d], %[w12], %[" even "]\n\t smlad %[" odd "], %[d], %[w12], %[" odd "]\n\t"
#define FIRST(sum) "smlad %[" sum "], %[d], %[w01], %[" sum "]\n\t"
#define LAST(sum) "smlabt %[" sum "], %[d], %[w12], %[" sum "]\n\t"
#define LOAD "ldr %[d], [%[p]], #4\n\t"

#define ROW_8_STEP_1                                                                                                   \
    NEXT_WEIGHTS LOAD ODD_EVEN("s0", "s1") LOAD EVEN_ODD("s0", "s1") ODD_EVEN("s2", "s3") LOAD EVEN_ODD("s2", "s3")                 \
    ODD_EVEN("s4", "s5") LOAD EVEN_ODD("s4", "s5") ODD_EVEN("s6", "s7") LOAD EVEN_ODD("s6", "s7")
#define ROW_4_STEP_1 NEXT_WEIGHTS LOAD ODD_EVEN("s0", "s1") LOAD EVEN_ODD("s0", "s1") ODD_EVEN("s2", "s3") LOAD EVEN_ODD("s2", "s3")
#define ROW_8_STEP_2                                                                                                   \
    NEXT_WEIGHTS LOAD FIRST("s0") LOAD LAST("s0") FIRST("s1") LOAD LAST("s1") FIRST("s2") LOAD LAST("s2") FIRST("s3") LOAD          \
    LAST("s3") FIRST("s4") LOAD LAST("s4") FIRST("s5") LOAD LAST("s5") FIRST("s6") LOAD LAST("s6") FIRST("s7") LOAD    \
    LAST("s7")
#define ROW_4_STEP_2                                                                                                   \
    NEXT_WEIGHTS LOAD FIRST("s0") LOAD LAST("s0") FIRST("s1") LOAD LAST("s1") FIRST("s2") LOAD LAST("s2") FIRST("s3") LOAD LAST("s3")

#define NEXT_WEIGHTS "ldrd %[w01], %[w12], [%[w]], #8\n\t"
#define BOTH(at, even, odd)                                                                                            \
    "ldr %[d], [%[p], #" at "]\n\t smlad %[" even "], %[d], %[w01], %[" even "]\n\t smlad %[" odd "], %[d], %[w12], %[" odd "]\n\t"
#define ONE(at, sum) "ldr %[d], [%[p], #" at "]\n\t smlad %[" sum "], %[d], %[w01], %[" sum "]\n\t"
#define WORD_4_STEP_1(a, b) NEXT_WEIGHTS BOTH(a, "s0", "s1") BOTH(b, "s2", "s3")
#define WORD_8_STEP_1(a, b, c, d) WORD_4_STEP_1(a, b) BOTH(c, "s4", "s5") BOTH(d, "s6", "s7")
#define WORD_4_STEP_2(a, b, c, d) NEXT_WEIGHTS ONE(a, "s0") ONE(b, "s1") ONE(c, "s2") ONE(d, "s3")
#define WORD_8_STEP_2(a, b, c, d, e, f, g, h)                                                                          \
    WORD_4_STEP_2(a, b, c, d) ONE(e, "s4") ONE(f, "s5") ONE(g, "s6") ONE(h, "s7")
#define WIDE_8_STEP_1 WORD_8_STEP_1("0", "4", "8", "12") WORD_8_STEP_1("4", "8", "12", "16") WORD_8_STEP_1("8", "12", "16", "20")
#define WIDE_4_STEP_1 WORD_4_STEP_1("0", "4") WORD_4_STEP_1("4", "8") WORD_4_STEP_1("8", "12")
#define WIDE_8_STEP_2                                                                                                  \
    WORD_8_STEP_2("0", "4", "8", "12", "16", "20", "24", "28") WORD_8_STEP_2("4", "8", "12", "16", "20", "24", "28", "32") \
    WORD_8_STEP_2("8", "12", "16", "20", "24", "28", "32", "36")
#define WIDE_4_STEP_2                                                                                                  \
    WORD_4_STEP_2("0", "4", "8", "12") WORD_4_STEP_2("4", "8", "12", "16") WORD_4_STEP_2("8", "12", "16", "20")

#define ALL_ROWS(row)                                                                                                  \
    "1:\n\t" row                                                                   \
    "add %[p], %[down]\n\t ldr %[d], %[end]\n\t cmp %[w], %[d]\n\t bne 1b"
#define SUMS_4 [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3)
#define SUMS_8 SUMS_4, [s4] "+r"(s4), [s5] "+r"(s5), [s6] "+r"(s6), [s7] "+r"(s7)
#define WALK(distance) [end] "m"(end), [down] "r"(distance)
#define PLACES [p] "+r"(p), [w] "+r"(w), [w01] "=&r"(w01), [w12] "=&r"(w12), [d] "=&r"(d)

/* Two results and the place of the next ones. A pair of registers goes to the FPU and back in one instruction. */
INLINE int8_t *depthwise_pair(int8_t *output, int32_t distance, int32_t a, int32_t b, float scale, int32_t zero)
{
#if defined(SOFT_FLOAT)
    output[distance] = depthwise_result(b, scale, zero);
    output[0] = depthwise_result(a, scale, zero);
    output += 2 * distance;
#else
    __asm volatile("vmov s14, s15, %[a], %[b]\n\t vcvt.f32.s32 s14, s14\n\t vcvt.f32.s32 s15, s15\n\t"
                   "vmul.f32 s14, s14, %[scale]\n\t vmul.f32 s15, s15, %[scale]\n\t"
                   "vcvtr.s32.f32 s14, s14\n\t vcvtr.s32.f32 s15, s15\n\t vmov %[a], %[b], s14, s15\n\t"
                   "add %[a], %[zero]\n\t add %[b], %[zero]\n\t ssat %[a], #8, %[a]\n\t ssat %[b], #8, %[b]\n\t"
                   "strb %[b], [%[output], %[distance]]\n\t strb %[a], [%[output]]\n\t"
                   "add %[output], %[output], %[distance], lsl #1"
                   : [a] "+r"(a), [b] "+r"(b), [output] "+r"(output)
                   : [scale] "t"(scale), [zero] "r"(zero), [distance] "r"(distance)
                   : "s14", "s15", "memory");
#endif
    return output;
}

INLINE int32_t depthwise_word(int32_t low, int32_t high) { return (int32_t)((uint32_t)high << 16 | (low & 0xFFFF)); }

/* The weights of one channel, in the words described above, into working memory. Where they end. */
INLINE const int32_t *depthwise_spread(const depthwise_t *layer, int32_t channel, int32_t *words, const int wide)
{
    const int32_t width = layer->kernel_width;
    const int8_t *weights = layer->weights + channel * layer->kernel_height * width;
    for (int32_t y = layer->kernel_height; y > 0; y--, weights += width) {
        const int32_t w0 = weights[0], w1 = width > 1 ? weights[1] : 0, w2 = width > 2 ? weights[2] : 0;
        *words++ = depthwise_word(w0, w1);
        if (wide) {
            const int32_t w3 = width > 3 ? weights[3] : 0, w4 = width > 4 ? weights[4] : 0;
            *words++ = depthwise_word(0, w0);
            *words++ = depthwise_word(w2, w3), *words++ = depthwise_word(w1, w2);
            *words++ = depthwise_word(w4, 0), *words++ = depthwise_word(w3, w4);
        } else {
            *words++ = depthwise_word(w1, w2);
        }
    }
    return words;
}

INLINE void depthwise_pairs(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t output_row, const int32_t stride, const int wide)
{
    const int32_t distance = layer->out_channels, zero = layer->out_zero, bias = layer->bias[channel];
    const float scale = layer->scale[channel];
    int32_t *const words = (int32_t *)(void *)(plane + layer->size);
    const int32_t *const end = depthwise_spread(layer, channel, words, wide);
    const int32_t pitch = 2 * layer->dilation_y * layer->row; /* bytes from row to row, and from a row's end to the next */
    const int32_t down_8 = pitch - (wide ? 0 : stride == 1 ? 20 : 36), down_4 = pitch - (wide ? 0 : stride == 1 ? 12 : 20);
    for (int32_t y = 0; y < layer->out_height; y++, output += output_row) {
        const plane_t *at = plane + y * layer->stride_y * layer->row;
        int8_t *out = output;
        int32_t left = layer->out_width;
        for (; left >= 8; left -= 8, at += 8 * stride) {
            const plane_t *p = at;
            const int32_t *w = words;
            int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias, s5 = bias, s6 = bias, s7 = bias, w01, w12, d;
            if (wide && stride == 1)
                __asm volatile(ALL_ROWS(WIDE_8_STEP_1) : SUMS_8, PLACES : WALK(down_8) : "cc", "memory");
            else if (wide)
                __asm volatile(ALL_ROWS(WIDE_8_STEP_2) : SUMS_8, PLACES : WALK(down_8) : "cc", "memory");
            else if (stride == 1)
                __asm volatile(ALL_ROWS(ROW_8_STEP_1) : SUMS_8, PLACES : WALK(down_8) : "cc", "memory");
            else
                __asm volatile(ALL_ROWS(ROW_8_STEP_2) : SUMS_8, PLACES : WALK(down_8) : "cc", "memory");
            out = depthwise_pair(out, distance, s0, s1, scale, zero);
            out = depthwise_pair(out, distance, s2, s3, scale, zero);
            out = depthwise_pair(out, distance, s4, s5, scale, zero);
            out = depthwise_pair(out, distance, s6, s7, scale, zero);
        }
        for (; left > 0; left -= 4, at += 4 * stride) {
            const plane_t *p = at;
            const int32_t *w = words;
            int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, w01, w12, d;
            if (wide && stride == 1)
                __asm volatile(ALL_ROWS(WIDE_4_STEP_1) : SUMS_4, PLACES : WALK(down_4) : "cc", "memory");
            else if (wide)
                __asm volatile(ALL_ROWS(WIDE_4_STEP_2) : SUMS_4, PLACES : WALK(down_4) : "cc", "memory");
            else if (stride == 1)
                __asm volatile(ALL_ROWS(ROW_4_STEP_1) : SUMS_4, PLACES : WALK(down_4) : "cc", "memory");
            else
                __asm volatile(ALL_ROWS(ROW_4_STEP_2) : SUMS_4, PLACES : WALK(down_4) : "cc", "memory");
            out = depthwise_pair(out, left > 1 ? distance : 0, s0, s1, scale, zero); /* the first is written last */
            if (left > 2) out = depthwise_pair(out, left > 3 ? distance : 0, s2, s3, scale, zero);
        }
    }
}

#define DEPTHWISE_PAIRS(name, stride, wide)                                                                            \
    SOME_MODELS void name(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t row)      \
    {                                                                                                                  \
        depthwise_pairs(layer, plane, channel, output, row, stride, wide);                                             \
    }
DEPTHWISE_PAIRS(depthwise_three_1, 1, 0)
DEPTHWISE_PAIRS(depthwise_three_2, 2, 0)
DEPTHWISE_PAIRS(depthwise_five_1, 1, 1)
DEPTHWISE_PAIRS(depthwise_five_2, 2, 1)

#endif
