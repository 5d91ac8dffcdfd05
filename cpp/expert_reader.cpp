#include "expert_reader.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "pack.hpp"

#if defined(__linux__) && !defined(MADV_POPULATE_WRITE)
#define MADV_POPULATE_WRITE 23  // of Linux 5.14; older C libraries do not name it
#endif

namespace stride {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int64_t populated_bytes = 16 << 20;  // at once

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t round_down(int64_t n, int64_t step) { return n / step * step; }

std::array<int64_t, ExpertReader::n_parts + 1> part_offsets(const ExpertReader::Layer& layer) {
    std::array<int64_t, ExpertReader::n_parts + 1> offsets{};
    for (size_t part = 0; part < layer.size(); ++part)
        offsets[part + 1] = offsets[part] + round_up(layer[part].shape.matrix_bytes(), ExpertReader::alignment);
    return offsets;
}

// Bytes begin .. end of a file to `out`, which has room for the aligned stretch around them; the first byte that was
// asked for is at out + begin % alignment. Gives `end`, or where the file ended before, or -errno.
int64_t read_aligned(int file, uint8_t* out, int64_t begin, int64_t end) {
    const int64_t start = round_down(begin, ExpertReader::alignment), stop = round_up(end, ExpertReader::alignment);
    for (int64_t at = start; at < end;) {
        const ssize_t n = pread(file, out + (at - start), static_cast<size_t>(stop - at), at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (at + n >= end) break;
        const int64_t next = round_down(at + n, ExpertReader::alignment);
        if (next == at) return std::max(at + n, begin);
        at = next;
    }
    return end;
}

}  // namespace

int64_t ExpertReader::bytes_per_slot(const std::vector<Layer>& layers) {
    int64_t most = 0;
    for (const Layer& layer : layers) most = std::max(most, part_offsets(layer)[n_parts]);
    return most;
}

ExpertReader::ExpertReader(std::vector<Layer> layers, std::vector<int> files, int64_t n_slots, int n_threads,
                           int64_t block_bytes)
    : layers_(std::move(layers)),
      files_(std::move(files)),
      n_slots_(n_slots),
      slot_bytes_(bytes_per_slot(layers_)),
      block_bytes_(block_bytes),
      process_(getpid()),
      arena_(static_cast<size_t>(n_slots_ * slot_bytes_), false),
      slots_(static_cast<size_t>(n_slots)) {
    for (const Layer& layer : layers_) {
        const auto offsets = part_offsets(layer);
        offsets_.push_back({offsets[gate], offsets[up], offsets[down]});
    }
    populate();
    for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
}

// Memory that would come page by page, while experts are packed into it, would come many times slower.
void ExpertReader::populate() {
    std::vector<std::thread> threads;
    const int64_t end = n_slots_ * slot_bytes_;
    std::atomic<int64_t> next{0};
    const auto touch = [&] {
        for (int64_t at; (at = next.fetch_add(populated_bytes)) < end;) {
            const int64_t n = std::min(populated_bytes, end - at);
#ifdef MADV_POPULATE_WRITE
            if (madvise(arena_.data() + at, static_cast<size_t>(n), MADV_POPULATE_WRITE) == 0) continue;
#endif
            for (int64_t page = 0; page < n; page += alignment) arena_.data()[at + page] = 0;
        }
    };
    for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(touch);
    touch();
    for (std::thread& thread : threads) thread.join();
}

ExpertReader::~ExpertReader() {
    if (getpid() != process_) {  // a forked child: the threads are the parent's
        for (std::thread& thread : threads_) thread.detach();
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    requested_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (const int file : files_) close(file);
}

void ExpertReader::check_process() const {
    if (getpid() != process_) throw std::runtime_error("a forked process cannot read experts: it has no threads for it");
}

void ExpertReader::request(int64_t layer, const std::vector<int64_t>& experts, const std::vector<int64_t>& slots,
                           bool wanted) {
    check_process();
    {
        std::unique_lock lock(mutex_);
        for (const int64_t slot : slots) forget(lock, at(slot));
        std::deque<Block>& queue = wanted ? wanted_ : expected_;
        for (size_t i = 0; i < slots.size(); ++i)
            for (const int part : {gate, up}) add_blocks(queue, slots[i], layer, experts[i], part);
        for (size_t i = 0; i < slots.size(); ++i) add_blocks(queue, slots[i], layer, experts[i], down);
    }
    requested_.notify_all();
}

// Whatever was to come into a slot: afterwards nobody writes to it.
void ExpertReader::forget(std::unique_lock<std::mutex>& lock, Slot& slot) {
    ++slot.generation;
    idle_.wait(lock, [&] { return slot.busy == 0; });
    slot.parts = {};
}

void ExpertReader::add_blocks(std::deque<Block>& queue, int64_t slot, int64_t layer, int64_t expert, int part) {
    const Source& source = layers_[static_cast<size_t>(layer)][static_cast<size_t>(part)];
    const int64_t n_bytes = source.shape.matrix_bytes();
    const int64_t n_units = source.packed ? n_bytes : source.shape.tiles();
    const int64_t n_blocks = std::max<int64_t>(1, (n_bytes + block_bytes_ / 2) / block_bytes_);
    int64_t step = (n_units + n_blocks - 1) / n_blocks;
    if (source.packed) step = round_up(step, alignment);
    Part& state = at(slot).parts[static_cast<size_t>(part)];
    state.state = State::reading;
    for (int64_t first = 0; first < n_units; first += step, ++state.blocks_left)
        queue.push_back({slot, layer, expert, first, std::min(step, n_units - first), at(slot).generation, part});
}

void ExpertReader::promote(int64_t slot) {
    const std::lock_guard lock(mutex_);
    const auto theirs = std::stable_partition(expected_.begin(), expected_.end(),
                                              [slot](const Block& block) { return block.slot != slot; });
    wanted_.insert(wanted_.end(), theirs, expected_.end());
    expected_.erase(theirs, expected_.end());
}

// Threads that are at it may still write: the slot's next request waits for them.
void ExpertReader::cancel(int64_t slot) {
    const std::lock_guard lock(mutex_);
    ++at(slot).generation;
    at(slot).parts = {};
}

void ExpertReader::release(int64_t slot) {
    std::unique_lock lock(mutex_);
    forget(lock, at(slot));
    madvise(arena_.data() + slot * slot_bytes_, static_cast<size_t>(slot_bytes_), MADV_DONTNEED);
}

bool ExpertReader::is_ready(int64_t slot) {
    const std::lock_guard lock(mutex_);
    const auto& parts = at(slot).parts;
    return std::all_of(parts.begin(), parts.end(), [](const Part& part) { return part.state == State::ready; });
}

bool ExpertReader::has_arrived(int64_t slot, int part) {
    const std::lock_guard lock(mutex_);
    const Part& one = at(slot).parts[static_cast<size_t>(part)];
    if (one.state == State::empty) throw std::logic_error("an expert is computed that nobody requested");
    if (one.state == State::failed) throw ReadError(slot, part, one.offset, one.number);
    return one.state == State::ready;
}

uint64_t ExpertReader::n_arrived() {
    const std::lock_guard lock(mutex_);
    return n_arrived_;
}

void ExpertReader::wait_beyond(uint64_t seen) {
    check_process();
    const auto start = Clock::now();
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return n_arrived_ > seen; });
    counts_.waited_seconds += seconds_since(start);
}

ExpertReader::Counts ExpertReader::counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
}

void ExpertReader::work() {
    Buffer<uint8_t> staging;
    std::unique_lock lock(mutex_);
    for (;;) {
        requested_.wait(lock, [&] { return stop_ || !wanted_.empty() || !expected_.empty(); });
        if (stop_) return;
        std::deque<Block>& queue = wanted_.empty() ? expected_ : wanted_;
        const Block block = queue.front();
        queue.pop_front();
        Slot& slot = at(block.slot);
        if (slot.generation != block.generation) continue;
        ++slot.busy;
        lock.unlock();
        const Outcome outcome = read(block, staging);
        lock.lock();
        if (--slot.busy == 0) idle_.notify_all();
        if (slot.generation != block.generation) continue;
        Part& part = slot.parts[static_cast<size_t>(block.part)];
        if (part.state != State::reading) continue;  // another block of it failed
        if (!outcome.ok) part = {State::failed, 0, outcome.offset, outcome.number};
        else if (--part.blocks_left == 0) part.state = State::ready;
        if (part.state == State::reading) continue;
        ++n_arrived_;
        arrived_.notify_all();
    }
}

ExpertReader::Outcome ExpertReader::read(const Block& block, Buffer<uint8_t>& staging) {
    const Source& source = layers_[static_cast<size_t>(block.layer)][static_cast<size_t>(block.part)];
    const MatrixShape& shape = source.shape;
    uint8_t* part = arena_.data() + block.slot * slot_bytes_ + part_offset(block.layer, block.part);
    const int64_t row_bytes = shape.format().file_row_bytes(shape.columns());
    const int64_t unit_bytes = source.packed ? 1 : tile_rows * row_bytes;
    const int64_t matrix = source.offset + block.expert * source.stride;
    const int64_t matrix_end = matrix + (source.packed ? shape.matrix_bytes() : shape.rows() * row_bytes);
    const int64_t begin = matrix + block.first * unit_bytes;
    const int64_t end = std::min(matrix + (block.first + block.n) * unit_bytes, matrix_end);

    // What lies in the file as in memory goes there without a detour; the slot's part has room for whole pages.
    const bool straight = source.packed && begin % alignment == 0;
    const int64_t room = end - begin + 3 * alignment;
    uint8_t* out = part + block.first;
    if (!straight) {
        const auto start = reinterpret_cast<uintptr_t>(staging.get(room));
        out = reinterpret_cast<uint8_t*>((start + alignment - 1) / alignment * alignment);
    }
    const auto read_start = Clock::now();
    const int64_t result = read_aligned(source.file, out, begin, end);
    const double read_seconds = seconds_since(read_start);
    const auto pack_start = Clock::now();
    if (result == end && !straight) {
        const uint8_t* bytes = out + begin % alignment;
        if (source.packed) std::memcpy(part + block.first, bytes, static_cast<size_t>(end - begin));
        for (int64_t i = 0; !source.packed && i < block.n; ++i) {
            const int64_t first_row = (block.first + i) * tile_rows;
            uint8_t* tile = part + (block.first + i) * shape.tile_bytes();
            std::memset(tile, 0, static_cast<size_t>(shape.tile_bytes()));
            pack_tile(shape.format(), bytes + i * unit_bytes,
                      static_cast<int>(std::min<int64_t>(tile_rows, shape.rows() - first_row)), shape.columns(), tile);
        }
    }
    const double pack_seconds = seconds_since(pack_start);
    const std::lock_guard lock(mutex_);
    counts_.read_seconds += read_seconds;
    counts_.pack_seconds += pack_seconds;
    if (result == end) {
        counts_.read_bytes += end - begin;
        return {true, 0, 0};
    }
    return {false, result < 0 ? begin : result, result < 0 ? static_cast<int>(-result) : 0};
}

}  // namespace stride
