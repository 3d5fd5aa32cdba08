// SPDX-License-Identifier: Apache-2.0
//
// The Verilated board behind a pseudo-terminal: a process that is to a host what a board on a serial port is.
//
// Prints the terminal's path, then clocks the board while a frame or a pass is under way and sleeps while none is. SIGUSR1 is
// the board's reset button. Ends with its parent.
// What it does not do: know frames (the RTL does), slow the line down to a baud rate, damage bytes (tests do, in between).

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "Vboard.h"
#include "verilated.h"

namespace {

constexpr int kResetCycles = 4;
constexpr size_t kLineBytes = 1 << 16;
constexpr int kSleepMs = 500;
// While the board works, the line is looked at this often: a system call costs as much as some hundred cycles.
constexpr int kLookCycles = 256;
// A flag ends a frame, but what it sets in motion begins some cycles later.
constexpr int kSettleCycles = 16;

volatile sig_atomic_t reset_pressed = 0;

void press_reset(int) { reset_pressed = 1; }

int open_terminal() {
  const int line = posix_openpt(O_RDWR | O_NOCTTY);
  if (line < 0 || grantpt(line) || unlockpt(line)) return -1;
  // Held open, so that the line survives hosts that come and go; raw, so that every byte passes as it is.
  const int held = open(ptsname(line), O_RDWR | O_NOCTTY);
  termios settings;
  if (held < 0 || tcgetattr(held, &settings)) return -1;
  cfmakeraw(&settings);
  if (tcsetattr(held, TCSANOW, &settings)) return -1;
  return fcntl(line, F_SETFL, O_NONBLOCK) ? -1 : line;
}

class Board {
 public:
  explicit Board(int line) : line_(line) { reset(); }

  void run() {
    const pid_t parent = getppid();
    while (getppid() == parent) {
      if (reset_pressed) {
        reset_pressed = 0;
        reset();
      }
      if (at_ == got_ && (settle_ == 0 || ++unlooked_ >= kLookCycles)) receive();
      if (at_ == got_ && settle_ == 0) {
        send();
        pollfd waiting{line_, static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
        poll(&waiting, 1, kSleepMs);
        continue;
      }
      cycle();
    }
  }

 private:
  void reset() {
    out_.clear();
    at_ = got_ = 0;
    board_.rst_ni = 0;
    for (int i = 0; i < kResetCycles; ++i) edge();
    board_.rst_ni = 1;
    settle_ = kSettleCycles;
  }

  void edge() {
    board_.clk_i = 0;
    board_.eval();
    board_.clk_i = 1;
    board_.eval();
  }

  void cycle() {
    board_.rx_valid_i = at_ < got_;
    if (board_.rx_valid_i) board_.rx_data_i = in_[at_++];
    board_.tx_ready_i = out_.size() < kLineBytes;
    board_.clk_i = 0;
    board_.eval();
    if (board_.tx_valid_o && board_.tx_ready_i) out_.push_back(static_cast<char>(board_.tx_data_o));
    settle_ = board_.busy_o || board_.rx_valid_i ? kSettleCycles : settle_ - 1;
    board_.clk_i = 1;
    board_.eval();
    if (out_.size() >= kLineBytes) send();
  }

  void receive() {
    const ssize_t got = read(line_, in_, sizeof in_);
    got_ = got > 0 ? static_cast<size_t>(got) : 0;
    at_ = 0;
    unlooked_ = 0;
  }

  void send() {
    if (out_.empty()) return;
    const ssize_t sent = write(line_, out_.data(), out_.size());
    if (sent > 0) out_.erase(0, static_cast<size_t>(sent));
  }

  Vboard board_;
  int line_;
  uint8_t in_[kLineBytes];
  std::string out_;
  size_t at_ = 0, got_ = 0;
  int unlooked_ = 0;
  int settle_ = 0;
};

}  // namespace

// The RTL stops itself for a parameter that no board can have.
void vl_finish(const char*, int, const char*) { std::exit(0); }
void vl_stop(const char* file, int line, const char*) {
  std::fprintf(stderr, "board: stopped at %s:%d\n", file, line);
  std::exit(1);
}
void vl_fatal(const char* file, int line, const char*, const char* message) {
  std::fprintf(stderr, "board: %s:%d: %s\n", file, line, message);
  std::exit(1);
}

int main() {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGUSR1, press_reset);
  const int line = open_terminal();
  if (line < 0) {
    perror("board: no pseudo-terminal");
    return 1;
  }
  std::printf("%s\n", ptsname(line));
  std::fflush(stdout);
  Board(line).run();
  return 0;
}
