#if defined(KERNELS_DSP)

/* Dot products of 3 or 2 neighbouring windows with two channels, four elements of each a step.

   A word of weights is [a0 b0 a1 b1], a and b the two channels: SXTB16 makes of it the pairs (a0, a1) and, rotated,
   (b0, b1), and SMLAD multiplies a pair of weights with a pair of data and adds both products. For 3 x 2 outputs that is 20
   instructions for 24 multiplications. All 14 registers are taken; what is needed once a run waits in memory.

   Every instruction of a step is 4 bytes long. Four steps make a round, and a run that is not whole rounds enters the
   first one so many bytes after its beginning. */

typedef struct {
    const row_t *const *next, *const *last; /* runs */
    const row_t *end;                       /* of this run */
    int32_t at, length;                     /* bytes: from the beginning of each run to the window; of a run */
    int32_t skip;                           /* bytes of code to leave out of a run's first round */
} walk_t;

#define UNPACK_WEIGHTS                                                                                                 \
    "ldrd %[w0], %[w1], [%[w]], #8\n\t"                                                                                \
    "sxtb16 %[a], %[w0]\n\t sxtb16 %[w0], %[w0], ror #8\n\t"                                                           \
    "sxtb16 %[b], %[w1]\n\t sxtb16 %[w1], %[w1], ror #8\n\t"
#define MULTIPLY(sum_a, sum_b)                                                                                         \
    "smlad %[" sum_a "], %[a], %[d0], %[" sum_a "]\n\t smlad %[" sum_b "], %[w0], %[d0], %[" sum_b "]\n\t"             \
    "smlad %[" sum_a "], %[b], %[d1], %[" sum_a "]\n\t smlad %[" sum_b "], %[w1], %[d1], %[" sum_b "]\n\t"
#define WINDOW_2 "ldrd %[d0], %[d1], [%[p], #2*%c[step]]\n\t" MULTIPLY("a2", "b2")
#define WINDOW_1 "ldrd %[d0], %[d1], [%[p], %[step]]\n\t" MULTIPLY("a1", "b1")
#define WINDOW_0 "ldrd %[d0], %[d1], [%[p]], %[advance]\n\t" MULTIPLY("a0", "b0")
#define STEP_3 UNPACK_WEIGHTS WINDOW_2 WINDOW_1 WINDOW_0
#define STEP_2 UNPACK_WEIGHTS WINDOW_1 WINDOW_0
#define BYTES_3 80 /* of STEP_3 */
#define BYTES_2 60

#define ALL_RUNS(step)                                                                                                 \
    "1:\n\t ldr %[d0], %[next]\n\t ldr %[p], [%[d0]], #4\n\t str %[d0], %[next]\n\t"                                   \
    "ldr %[d1], %[at]\n\t add %[p], %[d1]\n\t ldr %[d1], %[length]\n\t add %[d1], %[p]\n\t str %[d1], %[end]\n\t"      \
    "ldr %[d1], %[skip]\n\t add pc, %[d1]\n\t nop\n\t" /* pc is 4 bytes ahead: after the nop */                        \
    "2:\n\t" step step step step "ldr %[d0], %[end]\n\t cmp %[p], %[d0]\n\t blo 2b\n\t"                                \
    "ldr %[d0], %[next]\n\t ldr %[d1], %[last]\n\t cmp %[d0], %[d1]\n\t bne 1b"
#define ONE_RUN(step)                                                                                                  \
    "ldr %[d1], %[skip]\n\t add pc, %[d1]\n\t nop\n\t"                                                                 \
    "2:\n\t" step step step step "ldr %[d0], %[end]\n\t cmp %[p], %[d0]\n\t blo 2b"
#define RUN_OUT                                                                                                        \
    [p] "+&r"(p), [w] "+&r"(w), [w0] "=&r"(w0), [w1] "=&r"(w1), [a] "=&r"(a), [b] "=&r"(b), [d0] "=&r"(d0),            \
        [d1] "=&r"(d1)
#define RUN_IN [end] "m"(walk.end), [skip] "m"(walk.skip)
#define WALK_OUT                                                                                                       \
    [p] "=&r"(p), [w] "+&r"(w), [w0] "=&r"(w0), [w1] "=&r"(w1), [a] "=&r"(a), [b] "=&r"(b), [d0] "=&r"(d0),            \
        [d1] "=&r"(d1), [next] "+m"(walk.next), [end] "=m"(walk.end)
#define WALK_IN [last] "m"(walk.last), [at] "m"(walk.at), [length] "m"(walk.length), [skip] "m"(walk.skip)

/* The results of one window; a layer's last channel may be without a second one, and is written twice then. */
INLINE void conv_pair(int8_t *output, int32_t a, int32_t b, float scale_a, float scale_b, int32_t zero, int32_t second)
{
#if defined(SOFT_FLOAT)
    a = nearest_scaled(a, scale_a), b = nearest_scaled(b, scale_b);
#else /* a pair of registers goes to the FPU, and back, in one instruction */
    __asm("vmov s14, s15, %[a], %[b]\n\t vcvt.f32.s32 s14, s14\n\t vcvt.f32.s32 s15, s15\n\t"
          "vmul.f32 s14, s14, %[scale_a]\n\t vmul.f32 s15, s15, %[scale_b]\n\t"
          "vcvtr.s32.f32 s14, s14\n\t vcvtr.s32.f32 s15, s15\n\t vmov %[a], %[b], s14, s15"
          : [a] "+r"(a), [b] "+r"(b) : [scale_a] "t"(scale_a), [scale_b] "t"(scale_b) : "s14", "s15");
#endif
    output[second] = saturate(b + zero);
    output[0] = saturate(a + zero);
}

/* One window with two channels: the end of a row, and layers whose windows are too far apart. */
NOINLINE void conv_single(const conv_t *layer, const row_t *const *runs, int8_t *output, int32_t channel, int32_t at)
{
    const int32_t count = layer->kernel_height * layer->runs_per_row, length = layer->run;
    const int32_t second = channel + 1 < layer->out_channels;
    const int8_t *w = layer->weights + channel * count * length;
    int32_t a0 = layer->bias[channel], b0 = layer->bias[channel + 1];
    for (int32_t r = 0; r < count; r++) {
        const row_t *p = runs[r] + at, *const end = p + length;
        uint32_t w0, w1, a, b, d0, d1;
        __asm volatile("1:\n\t" UNPACK_WEIGHTS WINDOW_0 "cmp %[p], %[end]\n\t blo 1b"
                       : [p] "+&r"(p), [w] "+&r"(w), [a0] "+&r"(a0), [b0] "+&r"(b0), [w0] "=&r"(w0), [w1] "=&r"(w1),
                         [a] "=&r"(a), [b] "=&r"(b), [d0] "=&r"(d0), [d1] "=&r"(d1)
                       : [end] "r"(end), [advance] "i"(8)
                       : "cc", "memory");
    }
    conv_pair(output, a0, b0, layer->scale[channel], layer->scale[channel + 1], layer->out_zero, second);
}

/* One row of outputs. `step` is the distance of windows in bytes, `advance` that of four elements from the next four:
   8, or 24 in blocks of three. They are known to the compiler because they are part of instructions. */
INLINE void conv_row_dsp(
    const conv_t *layer, const row_t *const *runs, int8_t *output, const int32_t step, const int32_t advance)
{
    const int32_t channels = layer->out_channels, width = layer->out_width, zero = layer->out_zero;
    const int32_t count = layer->kernel_height * layer->runs_per_row, missing = -layer->run / 4 & 3;
    const int32_t blocks = advance > 8, pitch = blocks ? 2 * layer->run : step;
    const int8_t *weights = layer->weights;
    walk_t walk;
    walk.last = runs + count;
    walk.length = layer->run / 4 * advance;
    const int32_t reach = walk.length >> 1;
    for (int32_t c = 0; c < channels; c += 2, weights += 2 * count * layer->run) {
        const int32_t bias_a = layer->bias[c], bias_b = layer->bias[c + 1], second = c + 1 < channels;
        const float scale_a = layer->scale[c], scale_b = layer->scale[c + 1];
        int8_t *out = output + c;
        int32_t left = width;
        walk.at = 0;
        while (left > !blocks && step > 0 && step <= 1020) {
            const row_t *p = runs[0] + (walk.at >> 1);
            const int8_t *w = weights;
            uint32_t w0, w1, a, b, d0, d1;
            int32_t a0 = bias_a, a1 = bias_a, a2 = bias_a, b0 = bias_b, b1 = bias_b, b2 = bias_b;
            if (blocks)
                walk.end = p + reach;
            else
                walk.next = runs;
            if (step <= 510 && left > 2 && (blocks || left != 4)) {
                walk.skip = missing * BYTES_3;
                if (blocks)
                    __asm volatile(ONE_RUN(STEP_3)
                                   : [a0] "+&r"(a0), [b0] "+&r"(b0), [a1] "+&r"(a1), [b1] "+&r"(b1), [a2] "+&r"(a2),
                                     [b2] "+&r"(b2), RUN_OUT
                                   : [step] "i"(step <= 510 ? step : 0), [advance] "i"(advance), RUN_IN
                                   : "cc", "memory");
                else
                    __asm volatile(ALL_RUNS(STEP_3)
                               : [a0] "+&r"(a0), [b0] "+&r"(b0), [a1] "+&r"(a1), [b1] "+&r"(b1), [a2] "+&r"(a2),
                                 [b2] "+&r"(b2), WALK_OUT
                               : [step] "i"(step <= 510 ? step : 0), [advance] "i"(advance), WALK_IN
                               : "cc", "memory");
                conv_pair(out, a0, b0, scale_a, scale_b, zero, second);
                out += channels;
                conv_pair(out, a1, b1, scale_a, scale_b, zero, second);
                out += channels;
                conv_pair(out, a2, b2, scale_a, scale_b, zero, second);
                out += channels;
                walk.at += 3 * pitch;
                left -= 3;
            } else {
                walk.skip = missing * BYTES_2;
                if (blocks)
                    __asm volatile(ONE_RUN(STEP_2)
                                   : [a0] "+&r"(a0), [b0] "+&r"(b0), [a1] "+&r"(a1), [b1] "+&r"(b1), RUN_OUT
                                   : [step] "i"(step <= 1020 ? step : 0), [advance] "i"(advance), RUN_IN
                                   : "cc", "memory");
                else
                    __asm volatile(ALL_RUNS(STEP_2)
                               : [a0] "+&r"(a0), [b0] "+&r"(b0), [a1] "+&r"(a1), [b1] "+&r"(b1), WALK_OUT
                               : [step] "i"(step <= 1020 ? step : 0), [advance] "i"(advance), WALK_IN
                               : "cc", "memory");
                conv_pair(out, a0, b0, scale_a, scale_b, zero, second);
                out += channels;
                if (blocks && left == 1) break; /* the block's other places are empty */
                conv_pair(out, a1, b1, scale_a, scale_b, zero, second);
                out += channels;
                walk.at += 2 * pitch;
                left -= 2;
            }
        }
        if (blocks) continue;
        for (; left > 0; left--, out += channels, walk.at += 2 * layer->step)
            conv_single(layer, runs, out, c, walk.at / 2);
    }
}

#define CONV_ROW(name, step, advance)                                                                                  \
    static void conv_row_##name(const conv_t *layer, const row_t *const *runs, int8_t *output, row_t *window)          \
    {                                                                                                                  \
        (void)window;                                                                                                  \
        conv_row_dsp(layer, runs, output, step, advance);                                                              \
    }

#endif
