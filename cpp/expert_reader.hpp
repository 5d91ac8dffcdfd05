// Experts that stay on disk: threads of their own read them into slots of memory as they are wanted.
//
// A slot holds one expert in the packed layout: gate, up, down, each from a multiple of 4096 bytes on. Which expert is
// in which slot is the caller's to know. A request cuts each part into blocks, which any thread reads and packs; wanted
// ones come before those that are only expected, gate and up before down. The disk is asked in multiples of 4096 bytes
// at such offsets, as reading past the system's cache needs it.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "matrix.hpp"
#include "memory.hpp"

namespace stride {

// What a slot was to hold could not be read.
struct ReadError : std::runtime_error {
    ReadError(int64_t slot, int part, int64_t offset, int number)
        : std::runtime_error("an expert could not be read"), slot(slot), part(part), offset(offset), number(number) {}
    int64_t slot;
    int part;
    int64_t offset;  // in the file
    int number;      // errno; 0: the file ended
};

class ExpertReader {
public:
    static constexpr int gate = 0, up = 1, down = 2, n_parts = 3;
    static constexpr int64_t alignment = 4096;

    // Where the same matrix of all experts of a layer lies: expert e's at offset + e * stride of the file.
    struct Source {
        MatrixShape shape;
        int file;
        int64_t offset, stride;
        bool packed;  // already in the packed layout
    };
    using Layer = std::array<Source, n_parts>;

    struct Counts {
        int64_t read_bytes;
        double waited_seconds;  // in which there was nothing to compute until something arrived
        double read_seconds;    // that the threads spent in reading, all together
        double pack_seconds;
    };

    // Closes the files when it ends. block_bytes: what one thread reads at a time, about.
    ExpertReader(std::vector<Layer> layers, std::vector<int> files, int64_t n_slots, int n_threads, int64_t block_bytes);
    ~ExpertReader();
    ExpertReader(const ExpertReader&) = delete;
    ExpertReader& operator=(const ExpertReader&) = delete;

    static int64_t bytes_per_slot(const std::vector<Layer>& layers);

    int64_t n_slots() const { return n_slots_; }
    int64_t slot_bytes() const { return slot_bytes_; }
    const std::vector<Layer>& layers() const { return layers_; }
    uint8_t* arena() const { return arena_.data(); }
    int64_t part_offset(int64_t layer, int part) const {
        return offsets_[static_cast<size_t>(layer)][static_cast<size_t>(part)];
    }

    // Starts reading experts of a layer, each into its slot; what a slot was to get before is forgotten. wanted: before
    // all that is only expected.
    void request(int64_t layer, const std::vector<int64_t>& experts, const std::vector<int64_t>& slots, bool wanted);
    // What a slot gets is no longer only expected: it is wanted.
    void promote(int64_t slot);
    // What a slot was to get is not wanted any more: what is not under way is not read.
    void cancel(int64_t slot);
    // Empties a slot and gives its memory back to the system, until it is requested again.
    void release(int64_t slot);
    // Whether all of a slot is there.
    bool is_ready(int64_t slot);

    // Whether a part of a slot is there. ReadError: it will not come.
    bool has_arrived(int64_t slot, int part);
    uint64_t n_arrived();
    // Returns once more parts arrived, or failed, than `seen`.
    void wait_beyond(uint64_t seen);

    Counts counts();

private:
    struct Block {
        int64_t slot, layer, expert, first, n;  // tiles, of packed sources bytes
        uint64_t generation;
        int part;
    };
    enum class State { empty, reading, ready, failed };
    struct Part {
        State state = State::empty;
        int64_t blocks_left = 0, offset = 0;
        int number = 0;
    };
    struct Slot {
        std::array<Part, n_parts> parts;
        uint64_t generation = 0;  // of the latest request: blocks of earlier ones are not read
        int busy = 0;             // threads that write to it
    };
    struct Outcome {
        bool ok;
        int64_t offset;
        int number;
    };

    void check_process() const;
    void populate();
    void work();
    Outcome read(const Block& block, Buffer<uint8_t>& staging);
    void forget(std::unique_lock<std::mutex>& lock, Slot& slot);
    void add_blocks(std::deque<Block>& queue, int64_t slot, int64_t layer, int64_t expert, int part);
    Slot& at(int64_t slot) { return slots_[static_cast<size_t>(slot)]; }

    const std::vector<Layer> layers_;
    const std::vector<int> files_;
    const int64_t n_slots_, slot_bytes_, block_bytes_;
    const long process_;
    std::vector<std::array<int64_t, n_parts>> offsets_;  // of the parts in a slot, by layer
    Region arena_;

    std::mutex mutex_;  // guards all that follows
    std::condition_variable requested_, arrived_, idle_;
    std::vector<Slot> slots_;
    std::deque<Block> wanted_, expected_;
    uint64_t n_arrived_ = 0;
    bool stop_ = false;
    Counts counts_{};
    std::vector<std::thread> threads_;
};

}  // namespace stride
