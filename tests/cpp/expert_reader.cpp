// Experts of a file, wanted and expected, into slots that are taken again while they are read: what has arrived is what
// the file holds, and what cannot be read says so. scripts/sanitize runs this under the thread sanitizer.
#include "../../cpp/expert_reader.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

using stride::ExpertReader;

constexpr int64_t n_experts = 40, width = 96, dim = 64, n_slots = 12;
constexpr int64_t matrix_values = width * dim;

void require(bool condition, const char* what) {
    if (condition) return;
    std::printf("%s\n", what);
    std::exit(1);
}

float value(int64_t part, int64_t expert) { return static_cast<float>(1000 * part + expert + 1); }

// gate, up and down of all experts, one stack after the other, each matrix of one value.
void fill(int file) {
    require(lseek(file, 0, SEEK_SET) == 0, "the file cannot be written");
    std::vector<float> matrix(matrix_values);
    for (int64_t part = 0; part < 3; ++part)
        for (int64_t expert = 0; expert < n_experts; ++expert) {
            for (float& one : matrix) one = value(part, expert);
            const auto n = static_cast<ssize_t>(matrix_values * 4);
            require(write(file, matrix.data(), static_cast<size_t>(n)) == n, "the file cannot be written");
        }
}

void check(const ExpertReader& reader, int64_t slot, int64_t expert) {
    for (int part = 0; part < 3; ++part) {
        const auto* values = reinterpret_cast<const float*>(reader.arena() + slot * reader.slot_bytes() +
                                                            reader.part_offset(0, part));
        for (int64_t i = 0; i < matrix_values; ++i)
            require(values[i] == value(part, expert), "a slot holds something else than was asked for");
    }
}

void wait_for(ExpertReader& reader, int64_t slot) {
    for (;;) {
        const uint64_t seen = reader.n_arrived();
        bool all = true;
        for (int part = 0; part < 3; ++part) all = reader.has_arrived(slot, part) && all;
        if (all) return;
        reader.wait_beyond(seen);
    }
}

}  // namespace

int main() {
    char path[] = "/tmp/experts-XXXXXX";
    const int file = mkstemp(path);
    require(file >= 0, "no temporary file");
    fill(file);
    const stride::Format& f32 = *stride::find_format(0);
    const int64_t stack = n_experts * matrix_values * 4;
    const auto source = [&](int part, int64_t rows, int64_t columns) {
        return ExpertReader::Source{{f32, n_experts, rows, columns}, file, part * stack, matrix_values * 4, false};
    };
    std::mt19937 random(1);
    for (const int n_threads : {1, 2, 5}) {
        ExpertReader reader({{source(0, width, dim), source(1, width, dim), source(2, dim, width)}},
                            {dup(file)}, n_slots, n_threads, 4096);
        std::vector<int64_t> held(n_slots, -1);
        for (int round = 0; round < 300; ++round) {
            std::vector<int64_t> experts, slots;
            for (int64_t slot = round % 3; slot < n_slots; slot += 1 + round % 4) {
                experts.push_back(static_cast<int64_t>(random() % n_experts));
                slots.push_back(slot);
                held[static_cast<size_t>(slot)] = experts.back();
            }
            const bool wanted = round % 2 == 0;
            reader.request(0, experts, slots, wanted);
            if (round % 5 == 1) {  // one that is wanted after all, one that nobody wants
                reader.promote(slots.front());
                reader.release(slots.back());
                held[static_cast<size_t>(slots.back())] = -1;
            }
            for (size_t i = 0; round % 3 == 0 && i < slots.size(); ++i) {
                if (held[static_cast<size_t>(slots[i])] < 0) continue;
                wait_for(reader, slots[i]);
                check(reader, slots[i], experts[i]);
            }
        }
        for (int64_t slot = 0; slot < n_slots; ++slot) {
            if (held[static_cast<size_t>(slot)] < 0) continue;
            wait_for(reader, slot);
            check(reader, slot, held[static_cast<size_t>(slot)]);
        }

        require(ftruncate(file, 2 * stack + 100) == 0, "the file cannot be cut");
        bool failed = false;
        reader.request(0, {7}, {0}, true);
        try {
            wait_for(reader, 0);
        } catch (const stride::ReadError& error) {
            failed = error.slot == 0 && error.part == 2 && error.number == 0 && error.offset >= 2 * stack;
        }
        require(failed, "a file that ends was not noticed");
        reader.request(0, {1, 2, 3}, {1, 2, 3}, false);  // under way when the reader ends
        fill(file);
    }
    unlink(path);
    close(file);
    std::puts("expert reader: 900 requests, every expert its own");
    return 0;
}
