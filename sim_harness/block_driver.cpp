// SPDX-License-Identifier: Apache-2.0
// Drives any Verilated block: ports by number, a matrix of values a port, one row a clock cycle.
//
// A cycle: inputs are set with the clock low, outputs are read as they then are, and the clock rises. In a waveform inputs change
// half a cycle before the edge that sees them. The file is compiled with the generated model; `block.py` writes what it
// includes before it: the class, the ports' addresses, the clock's name.
// What it does not do: know what a port means (block.py has their names and shapes).

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "verilated.h"
#include "verilated_vcd_c.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

using TraceFile = VerilatedVcdC;
#define DITTO_API __attribute__((visibility("default")))

double sc_time_stamp() { return 0; }

static std::string block_message;
void vl_finish(const char*, int, const char*) {}
void vl_stop(const char* file, int line, const char*) { block_message = "stopped at " + std::string(file) + ":" + std::to_string(line); }
void vl_fatal(const char* file, int line, const char*, const char* message) {
  block_message = std::string(message) + " at " + file + ":" + std::to_string(line);
}

struct OpenBlock {
  VerilatedContext context;
  std::unique_ptr<Vblock> top;
  std::unique_ptr<TraceFile> trace;
  uint64_t time = 0;

  OpenBlock(const char* path, const char* plusargs) {
    const char* arguments[] = {"block", plusargs};
    context.commandArgs(2, arguments);
    context.traceEverOn(path != nullptr);
    top = std::make_unique<Vblock>(&context);
    if (path) {
      trace = std::make_unique<TraceFile>();
      top->trace(trace.get(), 99);
      trace->open(path);
    }
  }

  ~OpenBlock() {
    if (trace) trace->close();
    top->final();
    Verilated::threadContextp(Verilated::defaultContextp());  // it pointed to ours
  }

  void level(int clock) {
    top->BLOCK_CLOCK = clock;
    top->eval();
    if (trace) trace->dump(time);
    time += 5;
  }
};

extern "C" {

DITTO_API void* block_open(const char* trace_path, const char* plusargs) { return new OpenBlock(trace_path, plusargs); }
DITTO_API void block_close(void* block) { delete static_cast<OpenBlock*>(block); }
DITTO_API uint64_t block_port_bytes(void* block, int32_t port) {
  uint64_t bytes = 0;
  block_port(static_cast<OpenBlock*>(block)->top.get(), port, &bytes);
  return bytes;
}
DITTO_API void block_write_coverage(void* block, const char* path) {
#if VM_COVERAGE
  static_cast<OpenBlock*>(block)->context.coveragep()->write(path);
#endif
}
DITTO_API const char* block_message_text() { return block_message.c_str(); }

// Cycle c takes row c of every input and gives row c of every output. Stops at a failed assertion; returns the cycles run.
DITTO_API int64_t block_run(void* block, int64_t cycles, int32_t inputs, const int32_t* input, const uint8_t* const* values,
                            int32_t outputs, const int32_t* output, uint8_t* const* into) {
  auto* open = static_cast<OpenBlock*>(block);
  block_message.clear();
  for (int64_t cycle = 0; cycle < cycles; ++cycle) {
    for (int32_t i = 0; i < inputs; ++i) {
      uint64_t bytes = 0;
      void* port = block_port(open->top.get(), input[i], &bytes);
      std::memcpy(port, values[i] + cycle * bytes, bytes);
    }
    open->level(0);
    for (int32_t i = 0; i < outputs; ++i) {
      uint64_t bytes = 0;
      const void* port = block_port(open->top.get(), output[i], &bytes);
      std::memcpy(into[i] + cycle * bytes, port, bytes);
    }
    open->level(1);
    if (!block_message.empty()) return cycle;
  }
  return cycles;
}

}  // extern "C"
