// Steps many MuJoCo worlds on threads. Each thread has one mjModel and one mjData; the worlds live in MuJoCo-Warp's float32 arrays
// [world, value]. A thread loads, steps and stores one world after the other, so neither the number of threads nor the order of worlds
// changes a result. `step_world` calls the stages of MuJoCo's mj_step one by one.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include <mujoco/mujoco.h>

// One quantity of all worlds, and its address in the model or data of each thread.
struct Field {
  char *worlds;         // [world, size]
  void **threads;       // [thread] -> [size]
  int size, is_number;  // is_number: float in worlds and double in threads; else bytes in both
};

// MuJoCo-Warp's list of the contacts of all worlds, and its constraint forces [world, rows].
struct Contacts {
  int capacity, addresses, rows;
  int *count;
  float *position, *frame, *friction, *distance, *margin, *reference, *friction_reference, *impedance;
  int *dimension, *geoms, *address, *world;
  float *force;
};

struct Batch {
  int worlds, threads;
  int substeps;  // number of steps of each world in one call
  int wrenches;  // whether a call computes the forces between bodies
  int report;    // whether a call writes contacts and their forces
  int given;     // whether the list holds the contacts, so that MuJoCo finds none
  int searches;  // whether MuJoCo searches for contacts itself even if Pairs could
  int disabled;  // the models' disable flags
  mjModel **models;
  mjData **datas;
  float *mean_inertia;  // [world]
  int loads, outcomes, states;
  Field *load, *outcome, *state;  // inputs of a step, results of the forward dynamics, state after a step
  int *iterations, *constraints;  // [world]
  Contacts contacts;
  int *order, *first;  // scratch: contacts in the order of worlds, and the first contact of each world [world + 1]
  int *warnings;       // [mjNWARNING] number of MuJoCo's warnings of each kind
  Newton *newton;      // Newton's inputs and state, which each step reads and writes, or null
  int lost;            // number of contacts that MuJoCo's memory could not hold
  int rows, found;     // maximum of constraint rows of a world in a step, and number of contacts of all worlds in the last step
  int failed;          // first world whose step MuJoCo aborted, or -1
  char message[512];
  const Pairs *pairs;  // scratch: pairs of shapes to test, or null if MuJoCo searches
};

namespace {

struct Found {
  float position[3], frame[9], friction[5], distance;
  int dimension, geoms[2], address[10];
};
struct Span {
  int world;
  size_t first;
};
// Of one thread's worlds: contacts that MuJoCo's memory could not hold, the maximum of rows, and the number of contacts.
struct Need {
  int lost = 0, rows = 0, contacts = 0;
};

thread_local std::jmp_buf *escape = nullptr;
thread_local char complaint[512];
void (*other_error)(const char *) = nullptr;
void (*other_warning)(const char *) = nullptr;

// MuJoCo ends the process after an error. This handler leaves the step instead, and the caller learns the message.
void on_error(const char *message) {
  if (escape) {
    std::strncpy(complaint, message, sizeof complaint - 1);
    std::longjmp(*escape, 1);
  }
  if (other_error) return other_error(message);
  std::fprintf(stderr, "MuJoCo: %s\n", message);
  std::abort();
}

// MuJoCo writes warnings to a file in the working folder. During a step only mjData counts them, and the caller logs them once.
void on_warning(const char *message) {
  if (!escape && other_warning) other_warning(message);
}

void load(const Field *fields, int count, int world, int thread) {
  for (int i = 0; i < count; i++) {
    const Field &field = fields[i];
    const long size = field.size;
    if (!field.is_number) {
      std::memcpy(field.threads[thread], field.worlds + world * size, size);
      continue;
    }
    const float *from = reinterpret_cast<const float *>(field.worlds) + world * size;
    mjtNum *to = static_cast<mjtNum *>(field.threads[thread]);
    for (long k = 0; k < size; k++) to[k] = from[k];
  }
}

void store(const Field *fields, int count, int world, int thread) {
  for (int i = 0; i < count; i++) {
    const long size = fields[i].size;
    float *to = reinterpret_cast<float *>(fields[i].worlds) + world * size;
    const mjtNum *from = static_cast<const mjtNum *>(fields[i].threads[thread]);
    for (long k = 0; k < size; k++) to[k] = static_cast<float>(from[k]);
  }
}

void spoil(const Field *fields, int count, int world) {
  for (int i = 0; i < count; i++) {
    float *to = reinterpret_cast<float *>(fields[i].worlds) + static_cast<long>(world) * fields[i].size;
    for (int k = 0; k < fields[i].size; k++) to[k] = std::numeric_limits<float>::quiet_NaN();
  }
}

template <typename To, typename From>
void copy(To *to, const From *from, int size) {
  for (int k = 0; k < size; k++) to[k] = static_cast<To>(from[k]);
}

int constraint_rows(const mjModel *m, const mjContact &contact) {
  if (contact.efc_address < 0) return 0;
  return m->opt.cone == mjCONE_ELLIPTIC || contact.dim == 1 ? contact.dim : 2 * (contact.dim - 1);
}

// Writes the addresses of a contact's rows; -1 for rows beyond the array of forces.
void write_addresses(const Contacts &all, const mjModel *m, const mjContact &contact, int *to) {
  const int rows = constraint_rows(m, contact);
  for (int i = 0; i < all.addresses; i++) {
    const int address = i < rows ? contact.efc_address + i : -1;
    to[i] = address < all.rows ? address : -1;
  }
}

// Adds a world's contacts from the list, in the place of MuJoCo's collision detection. Returns the number of lost contacts.
int give_contacts(const Batch &b, mjModel *m, mjData *d, int world) {
  const Contacts &all = b.contacts;
  int lost = 0;
  for (int i = b.first[world]; i < b.first[world + 1]; i++) {
    const long k = b.order[i];
    mjContact contact;
    std::memset(&contact, 0, sizeof contact);
    contact.dist = all.distance[k];
    contact.includemargin = all.margin[k];
    copy(contact.pos, all.position + 3 * k, 3);
    copy(contact.frame, all.frame + 9 * k, 9);
    copy(contact.friction, all.friction + 5 * k, 5);
    copy(contact.solref, all.reference + mjNREF * k, mjNREF);
    copy(contact.solreffriction, all.friction_reference + mjNREF * k, mjNREF);
    copy(contact.solimp, all.impedance + mjNIMP * k, mjNIMP);
    contact.dim = all.dimension[k];
    for (int side = 0; side < 2; side++) {
      contact.geom[side] = all.geoms[2 * k + side];
      contact.flex[side] = contact.elem[side] = contact.vert[side] = -1;
    }
    contact.geom1 = contact.geom[0];
    contact.geom2 = contact.geom[1];
    contact.exclude = contact.dist >= contact.includemargin;
    contact.efc_address = -1;
    lost += mj_addContact(m, d, &contact);
  }
  return lost;
}

// Stores the contacts of one world and the forces of their rows.
void report_contacts(Batch &b, const mjModel *m, const mjData *d, int world, std::vector<Found> &found, std::vector<Span> &spans) {
  const Contacts &all = b.contacts;
  copy(all.force + static_cast<long>(world) * all.rows, d->efc_force, d->nefc < all.rows ? d->nefc : all.rows);
  if (b.given) {
    const int count = b.first[world + 1] - b.first[world];
    for (int i = 0; i < count && i < d->ncon; i++)
      write_addresses(all, m, d->contact[i], all.address + static_cast<long>(b.order[b.first[world] + i]) * all.addresses);
    return;
  }
  spans.push_back({world, found.size()});
  b.first[world + 1] = d->ncon;
  for (int i = 0; i < d->ncon; i++) {
    const mjContact &contact = d->contact[i];
    Found row;
    copy(row.position, contact.pos, 3);
    copy(row.frame, contact.frame, 9);
    copy(row.friction, contact.friction, 5);
    row.distance = static_cast<float>(contact.dist);
    row.dimension = contact.dim;
    copy(row.geoms, contact.geom, 2);
    write_addresses(all, m, contact, row.address);
    found.push_back(row);
  }
}

// Makes one step of one world; the results of the `last` step of a call are stored.
void step_world(Batch &b, int world, int thread, bool last, std::vector<Found> &found, std::vector<Span> &spans, Need &need) {
  mjModel *m = b.models[thread];
  mjData *d = b.datas[thread];
  load(b.load, b.loads, world, thread);
  m->stat.meaninertia = b.mean_inertia[world];
  mj_fwdKinematics(m, d);  // the position stage of mj_forward
  mj_makeM(m, d);
  mj_factorM(m, d);
  if (b.given || b.pairs) {
    m->opt.disableflags |= mjDSBL_CONTACT;  // empties the list and its memory
    mj_collision(m, d);
    m->opt.disableflags = b.disabled;
    need.lost += b.given ? give_contacts(b, m, d, world) : b.pairs->collide(m, d);
  } else {
    fourths.clear();
    mj_collision(m, d);
    need.lost += add_fourths(m, d);
  }
  mj_makeConstraint(m, d);
  if (d->nefc > need.rows) need.rows = d->nefc;
  mj_island(m, d);
  mj_projectConstraint(m, d);
  mj_transmission(m, d);
  mj_forwardSkip(m, d, mjSTAGE_POS, 1);
  if (last) {
    need.contacts += d->ncon;
    if (b.wrenches) mj_rnePostConstraint(m, d);
    store(b.outcome, b.outcomes, world, thread);
    if (b.iterations) b.iterations[world] = d->solver_niter[0];
    if (b.constraints) b.constraints[world] = d->nefc;
    if (b.report || b.given) report_contacts(b, m, d, world, found, spans);
  }
  switch (m->opt.integrator) {
    case mjINT_EULER: mj_Euler(m, d); break;
    case mjINT_RK4: mj_RungeKutta(m, d, 4); break;
    default: implicit_as_warp(m, d);
  }
  store(b.state, b.states, world, thread);
}

// Makes all steps of one world, from Newton's state to Newton's state.
void step_from_newton(Batch &b, int world, int thread, std::vector<Found> &found, std::vector<Span> &spans, Need &need) {
  for (int i = 0; i < b.substeps; i++) {
    const bool last = i + 1 == b.substeps;
    if (b.newton) newton::to_mujoco(*b.newton, world, i);
    step_world(b, world, thread, last, found, spans, need);
    if (b.newton) newton::to_newton(*b.newton, world, last);
  }
}

// Makes the steps of one world. If MuJoCo aborts, the world becomes NaN, the batch names it, and the thread can step other worlds.
void guarded_step(Batch &b, int world, int thread, std::vector<Found> &found, std::vector<Span> &spans, Need &need) {
  std::jmp_buf here;
  escape = &here;
  if (b.report && !b.given) b.first[world + 1] = 0;
  if (setjmp(here) == 0) {
    step_from_newton(b, world, thread, found, spans, need);
  } else {
    b.models[thread]->opt.disableflags = b.disabled;
    hide_free_bodies(b.models[thread], false);
    mj_resetData(b.models[thread], b.datas[thread]);
    spoil(b.outcome, b.outcomes, world);
    spoil(b.state, b.states, world);
    if (b.newton) newton::to_newton(*b.newton, world, true);
#pragma omp critical
    if (b.failed < 0 || world < b.failed) {
      b.failed = world;
      std::memcpy(b.message, complaint, sizeof b.message);
    }
  }
  escape = nullptr;
}

void write_found(const Contacts &all, const Found &row, int world, long k) {
  copy(all.position + 3 * k, row.position, 3);
  copy(all.frame + 9 * k, row.frame, 9);
  copy(all.friction + 5 * k, row.friction, 5);
  all.distance[k] = row.distance;
  all.dimension[k] = row.dimension;
  copy(all.geoms + 2 * k, row.geoms, 2);
  copy(all.address + all.addresses * k, row.address, all.addresses);
  all.world[k] = world;
}

void sort_given(Batch &b) {
  const int count = *b.contacts.count < b.contacts.capacity ? *b.contacts.count : b.contacts.capacity;
  std::memset(b.first, 0, sizeof(int) * (b.worlds + 1));
  for (int i = 0; i < count; i++) b.first[b.contacts.world[i] + 1]++;
  for (int w = 0; w < b.worlds; w++) b.first[w + 1] += b.first[w];
  std::vector<int> next(b.first, b.first + b.worlds);
  for (int i = 0; i < count; i++) b.order[next[b.contacts.world[i]]++] = i;
}

}  // namespace

extern "C" int batch_size() { return sizeof(Batch); }
extern "C" int newton_size() { return sizeof(Newton); }
extern "C" int mujoco_version() { return mjVERSION_HEADER == mj_version() ? mj_version() : -1; }

extern "C" int has_threads() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

// Newton's forward kinematics of the articulations in `mask`, or of all if it is null.
extern "C" void newton_kinematics(const Newton *n, const float *joint_q, const float *joint_qd, const unsigned char *mask, int worlds, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int world = 0; world < worlds; world++) newton::kinematics(*n, joint_q, joint_qd, world, mask);
}

extern "C" void batch_step(Batch *batch) {
  static std::mutex turn;  // MuJoCo's handlers and clock belong to the process
  const std::lock_guard<std::mutex> guard(turn);
  Batch &b = *batch;
  b.disabled = b.models[0]->opt.disableflags;
  other_error = mju_user_error;
  other_warning = mju_user_warning;
  mju_user_error = on_error;
  mju_user_warning = on_warning;
  const CollisionsAsWarp collisions;
  const mjfTime clock = mjcb_time;  // MuJoCo's Python package sets it, and MuJoCo would call it in every stage
  mjcb_time = nullptr;
  if (b.given) sort_given(b);
  const Pairs pairs(b.models[0]);
  b.pairs = pairs.is_usable && !(b.disabled & (mjDSBL_CONTACT | mjDSBL_CONSTRAINT)) && !b.searches ? &pairs : nullptr;
  b.failed = -1;
  int lost = 0, rows = 0, contacts = 0;
#pragma omp parallel num_threads(b.threads) reduction(+ : lost, contacts) reduction(max : rows)
  {
    thread_local std::vector<Found> found;
    thread_local std::vector<Span> spans;
    found.clear();
    spans.clear();
#ifdef _OPENMP
    extern int omp_get_thread_num();
    const int thread = omp_get_thread_num();
#else
    const int thread = 0;
#endif
    Need need;
#pragma omp for schedule(dynamic, 8)
    for (int world = 0; world < b.worlds; world++) guarded_step(b, world, thread, found, spans, need);
    lost = need.lost;
    rows = need.rows;
    contacts = need.contacts;
    if (b.report && !b.given) {
#pragma omp single
      {
        b.first[0] = 0;
        for (int w = 0; w < b.worlds; w++) b.first[w + 1] += b.first[w];
        const int count = b.first[b.worlds];
        *b.contacts.count = count < b.contacts.capacity ? count : b.contacts.capacity;
      }
      for (const Span &span : spans) {
        const int count = b.first[span.world + 1] - b.first[span.world];
        for (int i = 0; i < count; i++) {
          const long k = b.first[span.world] + i;
          if (k < b.contacts.capacity) write_found(b.contacts, found[span.first + i], span.world, k);
        }
      }
    }
  }
  b.lost = lost;
  b.rows = rows;
  b.found = b.given ? *b.contacts.count : contacts;
  for (int t = 0; t < b.threads; t++)
    for (int kind = 0; kind < mjNWARNING; kind++) {
      b.warnings[kind] += b.datas[t]->warning[kind].number;
      b.datas[t]->warning[kind].number = 0;
    }
  mju_user_error = other_error;
  mju_user_warning = other_warning;
  mjcb_time = clock;
}
