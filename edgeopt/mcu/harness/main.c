/* Runs the model on every input of inputs.bin; leaves outputs.bin and figures.bin (ticks in all, bytes of stack). */
#include <stdint.h>

#include MODEL_HEADER

#define SYSTICK ((volatile uint32_t *)0xE000E010u)
#define PAINT 0xA5A5A5A5u

extern uint32_t bss_end, stack_top;
static int8_t output[OUTPUT_SIZE];

static int32_t semihost(int32_t operation, const void *arguments)
{
    register int32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void leave(int code)
{
    const uint32_t arguments[2] = {0x20026u, (uint32_t)code};
    semihost(0x20, arguments);
    for (;;) {}
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, mode, length};
    return (uint32_t)semihost(0x01, arguments);
}

static uint32_t transfer(int32_t operation, uint32_t file, const void *data, uint32_t size)
{
    const uint32_t arguments[3] = {file, (uint32_t)data, size};
    return (uint32_t)semihost(operation, arguments); /* bytes that were not transferred */
}

/* From below the current frame to the end of the variables, except for what this call itself needs. */
__attribute__((noinline)) static uint32_t *paint(void)
{
    uint32_t *const here = (uint32_t *)__builtin_frame_address(0) - 16;
    for (uint32_t *at = &bss_end; at < here; at++) *at = PAINT;
    return here;
}

int main(void)
{
    const uint32_t in = open_file("inputs.bin", 10, 1), out = open_file("outputs.bin", 11, 5);
    uint32_t figures[2] = {0, 0};
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
    while (transfer(0x06, in, INPUT(), INPUT_SIZE) == 0) {
        uint32_t *const top = paint(), *at = &bss_end, begin = SYSTICK[2];
        RUN(INPUT(), output);
        figures[0] += (begin - SYSTICK[2]) & 0xFFFFFF;
        while (at < top && *at == PAINT) at++;
        if ((uint32_t)((char *)top - (char *)at) > figures[1]) figures[1] = (uint32_t)((char *)top - (char *)at);
        transfer(0x05, out, output, OUTPUT_SIZE);
    }
    transfer(0x05, open_file("figures.bin", 11, 5), figures, sizeof figures);
    return 0;
}
