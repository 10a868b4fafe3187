# include @name@.mk, and add @NAME@_SOURCES to what you compile and @NAME@_CFLAGS to how.
@NAME@_DIR := $(dir $(lastword $(MAKEFILE_LIST)))
@NAME@_SOURCES := $(@NAME@_DIR)@name@.c
@NAME@_CFLAGS := -std=c99 -O2 -ffp-contract=off -I$(@NAME@_DIR)
